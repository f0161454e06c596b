"""On-policy methods: the algorithms of `rlhf.algorithms` on given rollouts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.parity.cases import Case
from bench.parity.ours.common import MAX_TOKENS, Inputs, Result, one_step
from rlhf.algorithms import ALGORITHMS, Algorithm, Rollouts
from rlhf.batching import Batch, collate
from rlhf.models import logprobs_and_entropy, token_logprobs
from rlhf.online import in_micro_batches, loss_of, step_batches


def clipped(name: str, **knobs: Any) -> Callable[[int, Mapping[str, Any]], Algorithm]:
    """An algorithm by name, with TRL's names for the clip range and the longest completion for its fixed length."""

    def make(longest: int, given: Mapping[str, Any]) -> Algorithm:
        low, high = given["epsilon"], given.get("epsilon_high", given["epsilon"])
        return ALGORITHMS[name](**{"clip_low": low, "clip_high": high, "fixed_length": longest, **knobs})

    return make


def cispo(longest: int, given: Mapping[str, Any]) -> Algorithm:
    """TRL's epsilon_high is the bound itself, and there is none below."""
    return ALGORITHMS["cispo"](clip_low=1.0, clip_high=given["epsilon_high"] - 1.0, kl_in="none", aggregation="token")


def ppo(longest: int, given: Mapping[str, Any]) -> Algorithm:
    return ALGORITHMS["ppo"](
        gamma=given["gamma"], gae_lambda=given["lam"], whiten=True, clip_low=given["cliprange"],
        clip_high=given["cliprange"], value_clip=given["cliprange_value"], aggregation="token",
    )  # fmt: skip


NO_PENALTY = {"dynamic_sampling": False, "overlong_penalty": 0.0, "overlong_share": 0.2}
ON_POLICY: dict[str, Callable[[int, Mapping[str, Any]], Algorithm]] = {
    "GRPO": clipped("grpo", aggregation="sequence"),
    "Dr. GRPO": clipped("dr_grpo", kl_in="none", aggregation="fixed"),
    "DAPO": clipped("dapo", aggregation="token", **NO_PENALTY),
    "GSPO": clipped("gspo", aggregation="sequence"),
    "CISPO": cispo,
    # TRL sums over tokens and averages over completions.
    "RLOO": clipped("rloo", normalise=False, aggregation="fixed", fixed_length=1),
    "PPO": ppo,
}


def on_policy(case: Case, inputs: Inputs) -> Result:
    """The algorithm on rollouts of the old policy, in the second inner step: with a ratio that is not 1."""
    policy, reference = inputs.policy(), inputs.policy("reference")
    old = policy if case.on_policy else inputs.policy("old")
    given = inputs.batches[case.batch]
    prompts = [ids for ids in given["prompts"] for _ in range(given["group_size"])]
    batch = collate(
        [
            (prompt + completion, [False] * len(prompt) + [True] * len(completion))
            for prompt, completion in zip(prompts, given["completions"], strict=True)
        ],
        inputs.batches["pad_id"],
    )
    algorithm = ON_POLICY[case.method](inputs.batches["max_completion"], case.knobs)
    kl_coef = case.knobs.get("kl_coef", case.knobs.get("beta", 0.0))
    old_critic, critic = (inputs.critic("old_critic"), inputs.critic("critic")) if algorithm.critic else (None, None)
    rewards = inputs.scorer() if algorithm.critic else None

    def measured(function: Callable[[Batch], Tensor]) -> Tensor:
        return in_micro_batches(function, batch, MAX_TOKENS)

    rollouts = Rollouts(
        batch=batch,
        old_logprobs=measured(lambda part: token_logprobs(old.model, part)),
        ref_logprobs=measured(lambda part: token_logprobs(reference.model, part)),
        rewards=measured(rewards) if rewards else torch.tensor(given["rewards"]),
        stopped=torch.tensor([ids[-1] == inputs.batches["stop_id"] for ids in given["completions"]]),
        group_size=given["group_size"],
        values=measured(old_critic) if old_critic else None,
    )
    experience = algorithm.prepare(rollouts, kl_coef)
    batch_at = step_batches(lambda update: (experience, {}), algorithm, 2, MAX_TOKENS)
    batch_at(0)
    second = batch_at(1)
    assert second is not None
    loss = loss_of(algorithm, lambda part: logprobs_and_entropy(policy.model, part), critic)
    modules: dict[str, nn.Module] = {"policy": policy.model}
    loss_value, gradients = one_step(modules | ({"critic": critic} if critic else {}), second, loss)
    # Ours is a causal language model with a head beside it, TRL's a classifier around the bare backbone.
    names = {"critic.head.weight": "critic.score.weight"}
    return loss_value, {
        names.get(name, name.replace("critic.model.model.", "critic.model.")): value
        for name, value in gradients.items()
    }
