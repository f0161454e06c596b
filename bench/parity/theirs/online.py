"""On-policy methods: rollouts of the old policy, TRL's own advantages, and its loss at the present policy."""

from typing import Any
from unittest.mock import patch

import torch
import trl
from datasets import Dataset
from torch import Tensor

from bench.parity.cases import Case
from bench.parity.theirs.common import DUMMY_TEXT, Inputs, Result, backward, settings

GROUP_METHODS: dict[str, dict[str, Any]] = {
    "GRPO": {"loss_type": "grpo"},
    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "DAPO": {"loss_type": "dapo"},
    "GSPO": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "CISPO": {"loss_type": "cispo"},
    "RLOO": {},
}


def on_policy(case: Case, inputs: Inputs, folder: str) -> Result:
    """GRPO's family and RLOO: rollouts are made at the old policy, the loss is taken at the present one."""
    rollouts = inputs.batches[case.batch]
    prompts = [ids for ids in rollouts["prompts"] for _ in range(rollouts["group_size"])]
    completions = rollouts["completions"]
    fixed = GROUP_METHODS[case.method]
    rloo = case.method == "RLOO"
    hooks = {} if rloo else {"rollout_func": lambda prompts_, _: {
        "prompt_ids": prompts, "completion_ids": completions, "logprobs": None}}  # fmt: skip
    trainer = (trl.RLOOTrainer if rloo else trl.GRPOTrainer)(
        model=inputs.policy("policy" if case.on_policy else "old"),
        args=settings(
            trl.RLOOConfig if rloo else trl.GRPOConfig,
            folder,
            per_device_train_batch_size=len(completions),
            num_generations=rollouts["group_size"],
            max_completion_length=inputs.batches["max_completion"],
            steps_per_generation=1,
            num_iterations=2,  # so that the old policy's log-probabilities are kept
            **fixed,
            **case.knobs,
            **case.config,
        ),
        reward_funcs=lambda completion_ids, **_: rollouts["rewards"],
        train_dataset=Dataset.from_list([{"prompt": DUMMY_TEXT}] * len(completions)),
        processing_class=inputs.tokenizer,
        **hooks,
    )
    if rloo:  # which has no rollout hook
        trainer._generate = lambda prompts_: (prompts, completions, [DUMMY_TEXT] * len(completions))
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(inputs.policy("reference").state_dict())
    scored = trainer._generate_and_score_completions([{"prompt": DUMMY_TEXT}] * len(completions))
    trainer.model.load_state_dict(inputs.policy().state_dict())
    return backward(trainer.model, trainer.compute_loss(trainer.model, scored))


def ppo(case: Case, inputs: Inputs, folder: str) -> Result:
    """PPO is a whole training loop: one update of two epochs, whose optimiser moves to the present weights.

    The first epoch's loss is that of the policy that sampled; the second's, at the present weights, is the result.
    """
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    rollouts = inputs.batches[case.batch]
    prompts = [ids for ids in rollouts["prompts"] for _ in range(rollouts["group_size"])]
    width, length = max(map(len, prompts)), inputs.batches["max_completion"]
    pad = inputs.batches["pad_id"]
    queries = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    responses = torch.tensor([ids + [pad] * (length - len(ids)) for ids in rollouts["completions"]])
    sampled = torch.cat([queries, responses], dim=1)
    policy, critic = inputs.policy("old"), inputs.scorer("old_critic")
    policy.config.pad_token_id = critic.config.pad_token_id = pad
    found: list[Result] = []

    def generation(model: Any, queries: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return sampled, ppo_trainer.forward(model, sampled, pad).logits[:, width - 1 : -1]

    class ToPresent(torch.optim.SGD):
        """Moves to the present weights instead of along the gradient."""

        def step(self, closure: Any = None) -> None:
            policy.load_state_dict(inputs.policy().state_dict())
            critic.load_state_dict(inputs.scorer("critic").state_dict())

    optimizer = ToPresent([*policy.parameters(), *critic.parameters()], lr=0.0)
    trainer = PPOTrainer(
        args=settings(
            PPOConfig,
            folder,
            per_device_train_batch_size=len(prompts),
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=2,
            total_episodes=len(prompts),
            local_rollout_forward_batch_size=len(prompts),
            response_length=length,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
            **case.knobs,
        ),
        processing_class=inputs.tokenizer,
        model=policy,
        ref_model=inputs.policy("reference"),
        reward_model=inputs.scorer("reward"),
        value_model=critic,
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in prompts]),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    )

    trainer.dataloader = [{"input_ids": queries}]  # its own would shuffle them away from their responses

    def recorded(loss: Tensor) -> None:
        loss.backward()
        gradients = {f"policy.{name}": weight.grad.clone() for name, weight in policy.named_parameters()}
        gradients |= {f"critic.{name}": weight.grad.clone() for name, weight in critic.named_parameters()}
        found.append((loss.detach(), gradients))

    with (
        patch.object(ppo_trainer, "batch_generation", generation),
        patch.object(trainer.accelerator, "backward", recorded),
    ):
        trainer.train()
    return found[1]
