"""Every way of learning from the same reward must find the policy that theory says: π* = π_ref exp(r/β) / Z.

One small language, no neural network: rewards, KL in the reward, advantages, ratio, critic and DPO are all held by it
at once. A wrong sign or a misplaced reward anywhere ends elsewhere.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf import online
from rlhf.algorithms import Algorithm, Experience, grpo, ppo, reinforce, rloo
from rlhf.losses.direct_alignment import dpo
from rlhf.seeding import generator
from rlhf.trainer import OptimizerSettings, fit
from tests.rlhf.enumerable import PROMPT, REWARDS, TableCritic, TablePolicy, rewards_of, tilted, total_variation

BETA = 0.3
GRPO_KL = 1.0
"""In units of the rewards' spread, by which GRPO divides."""
BATCH = 512


def train(algorithm: Algorithm, updates: int = 80, inner_steps: int = 1, kl_coef: float = BETA) -> Tensor:
    """The policy [4, 4] that an algorithm ends with, by the very functions the stage uses."""
    policy, reference = TablePolicy(), TablePolicy()
    critic = TableCritic() if algorithm.critic else None

    def collect(update: int) -> tuple[Experience, dict[str, float]]:
        rollouts = online.collect(
            [PROMPT], policy.sample(BATCH, generator(0, "rollouts", update)),
            score=lambda prompts, completions: rewards_of(list(completions)),
            reference=reference.logprobs, critic=critic, group_size=BATCH, pad_id=5, max_tokens=10**6,
        )  # fmt: skip
        experience = algorithm.prepare(rollouts, kl_coef)
        return experience, online.rollout_metrics(rollouts, experience)

    fit(
        {"policy": policy} | ({"value": critic} if critic else {}),
        steps=updates * inner_steps,
        batch_at=online.step_batches(collect, algorithm, inner_steps, max_tokens=10**6),
        loss=online.loss_of(algorithm, policy.logprobs_and_entropy, critic),
        optimizer=OptimizerSettings(lr=0.1, schedule="linear"),
        seed=0,
        name="test",
    )
    return policy.log_table().detach().exp()


def reference_table() -> Tensor:
    return TablePolicy().log_table().detach()


def test_the_target_is_far_from_the_start() -> None:
    assert total_variation(reference_table().exp(), tilted(reference_table(), BETA)) > 0.3


CLIPS = {"clip_low": 0.2, "clip_high": 0.2}
PPO = {"gamma": 1.0, "whiten": True, "value_clip": 0.5, "aggregation": "token", **CLIPS}


@pytest.mark.parametrize(
    ("algorithm", "inner_steps"),
    [
        (reinforce(normalise=False, aggregation="fixed", fixed_length=1), 1),
        (rloo(normalise=False, aggregation="sequence", **CLIPS), 1),
        (rloo(normalise=True, aggregation="token", **CLIPS), 2),
        (ppo(gae_lambda=1.0, **PPO), 1),
        (ppo(gae_lambda=0.5, **PPO), 2),
    ],
    ids=["reinforce", "rloo", "rloo-2-steps", "ppo", "ppo-2-steps"],
)
def test_policy_gradients_with_kl_in_the_reward_reach_the_tilted_policy(algorithm: Algorithm, inner_steps: int) -> None:
    found = train(algorithm, inner_steps=inner_steps)
    assert total_variation(found, tilted(reference_table(), BETA)) < 0.04


def _solve(pull: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """GRPO's own fixed point, by hand: each token's KL is charged to that token only, and rewards are in units of σ.

    `pull(log_ref [.., 4], q [.., 4])` is the best distribution of one token; σ is the spread of r under the result.
    """
    policy, spread = TablePolicy(), 0.3
    for _ in range(200):
        second = pull(policy.second.detach().log_softmax(-1), REWARDS / spread)
        first = pull(policy.first.detach().log_softmax(-1), (second * REWARDS).sum(-1) / spread)
        table = first[:, None] * second
        mean = (table * REWARDS).sum()
        spread = 0.5 * spread + 0.5 * (table * (REWARDS - mean) ** 2).sum().sqrt().item()
    return table


def _reverse(log_ref: Tensor, q: Tensor) -> Tensor:
    """argmax of E[q] − β KL(π ‖ ref)."""
    return (log_ref + q / GRPO_KL).softmax(-1)


def _forward(log_ref: Tensor, q: Tensor) -> Tensor:
    """argmax of E[q] − β KL(ref ‖ π): π = β ref / (λ − q), with λ > max q found by halving."""
    low, high = q.max(-1, keepdim=True).values, q.max(-1, keepdim=True).values + GRPO_KL
    for _ in range(60):
        middle = (low + high) / 2
        mass = (GRPO_KL * log_ref.exp() / (middle - q)).sum(-1, keepdim=True)
        low, high = torch.where(mass > 1, middle, low), torch.where(mass > 1, high, middle)
    return GRPO_KL * log_ref.exp() / (high - q)


@pytest.mark.parametrize(("estimator", "pull"), [("k2", _reverse), ("k3", _forward)])
def test_grpo_reaches_the_fixed_point_of_its_estimator(
    estimator: str, pull: Callable[[Tensor, Tensor], Tensor]
) -> None:
    found = train(grpo(kl_estimator=estimator, aggregation="sequence", **CLIPS), kl_coef=GRPO_KL)  # type: ignore[arg-type]
    expected = _solve(pull)
    assert total_variation(found, expected) < 0.04
    assert total_variation(reference_table().exp(), expected) > 0.2


def test_dpo_on_exact_preferences_reaches_the_tilted_policy() -> None:
    """All ordered pairs, weighed by P(first beats second) = σ(r_1 − r_2): infinite data in one batch."""
    policy, ref = TablePolicy(), reference_table().flatten()
    rewards = REWARDS.flatten()
    pairs = torch.tensor(list(itertools.permutations(range(16), 2)))
    weights = F.sigmoid(rewards[pairs[:, 0]] - rewards[pairs[:, 1]])
    optimizer = torch.optim.LBFGS(policy.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        table = policy.log_table().flatten()
        losses, _ = dpo(table[pairs[:, 0]], table[pairs[:, 1]], ref[pairs[:, 0]], ref[pairs[:, 1]], beta=BETA)
        loss = (weights * losses).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert total_variation(policy.log_table().detach().exp(), tilted(reference_table(), BETA)) < 0.01
