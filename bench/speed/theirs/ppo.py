"""PPOTrainer of the last TRL that has it: two epochs on each batch of rollouts, in one mini-batch."""

from typing import Any
from unittest.mock import patch

from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from bench.speed.rows import steps_of
from bench.speed.theirs.common import Inputs, Ticks, main
from bench.speed.theirs.online import never_stops


def run(inputs: Inputs) -> Any:
    """Train; the trainer afterwards."""
    cell, clock = inputs.cell, inputs.clock
    rows = [row for step in steps_of(cell, inputs.folder) for row in step]
    policy = inputs.policy()
    never_stops(policy, inputs.tokenizer)
    trainer = PPOTrainer(
        args=inputs.settings(
            PPOConfig,
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=cell.inner_steps,
            total_episodes=cell.total_rows,
            local_rollout_forward_batch_size=cell.rows,
            response_length=cell.new_tokens,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
            kl_coef=0.05,
        ),
        processing_class=inputs.tokenizer,
        model=policy,
        ref_model=inputs.policy(),
        reward_model=inputs.scorer(),
        value_model=inputs.scorer(),
        train_dataset=Dataset.from_list([{"input_ids": row["prompt"]} for row in rows]),
        callbacks=[Ticks(clock)],
    )
    generate = ppo_trainer.batch_generation

    def counted(model: Any, queries: Any, *arguments: Any) -> Any:
        sampled, logits = generate(model, queries, *arguments)
        completions, length = sampled.shape[0], sampled.shape[1] - queries.shape[1]
        clock.tokens += completions * length
        clock.first.setdefault("tokens", float(completions * length))
        clock.first.setdefault("completions", float(completions))
        return sampled, logits

    with patch.object(ppo_trainer, "batch_generation", counted):
        trainer.train()
    return trainer


if __name__ == "__main__":
    main(run)
