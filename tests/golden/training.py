"""The library's own path on a language: rollouts, score, `prepare`, `loss`, `fit`; only sampling is systematic."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf import online
from rlhf.algorithms import Algorithm, Experience
from rlhf.sampler import Completion
from rlhf.seeding import generator
from rlhf.trainer import OptimizerSettings, fit
from tests.golden.language import PAD, PROMPT, Language, TableCritic, TablePolicy, systematic

Draw = Callable[[TablePolicy, float], tuple[list[Completion], Tensor]]
"""(policy, offset) to completions, group after group, and their rewards."""


def in_one_group(language: Language, count: int = 96) -> Draw:
    """One group of `count`: what the group's own mean and spread would be without noise."""

    def draw(policy: TablePolicy, offset: float) -> tuple[list[Completion], Tensor]:
        sentences = systematic(policy.table().detach().exp(), count, offset)
        return policy.completions(sentences, count), language.rewards.flatten()[sentences]

    return draw


def in_pairs(language: Language, count: int = 160) -> Draw:
    """Groups of two: `count` pairs of independent sentences."""

    def draw(policy: TablePolicy, offset: float) -> tuple[list[Completion], Tensor]:
        single = policy.table().detach().exp().flatten()
        sentences = [
            place for pair in systematic(single[:, None] * single, count, offset) for place in divmod(pair, len(single))
        ]
        return policy.completions(sentences, 2), language.rewards.flatten()[sentences]

    return draw


def in_labelled_pairs(language: Language, count: int = 800) -> Draw:
    """Groups of two, of which one is preferred with probability σ(r − r'): its reward is 1, that of the other 0."""
    rewards = language.rewards.flatten()
    first_wins = torch.sigmoid(rewards[:, None] - rewards)

    def draw(policy: TablePolicy, offset: float) -> tuple[list[Completion], Tensor]:
        single = policy.table().detach().exp().flatten()
        pairs = single[:, None] * single
        outcomes = torch.stack([pairs * first_wins, pairs * (1 - first_wins)], dim=-1)
        sentences, labels = [], []
        for outcome in systematic(outcomes, count, offset):
            pair, second_wins = divmod(outcome, 2)
            sentences += divmod(pair, len(single))
            labels += [1.0 - second_wins, float(second_wins)]
        return policy.completions(sentences, 2), torch.tensor(labels)

    return draw


def train(
    algorithm: Algorithm,
    language: Language,
    kl_coef: float,
    *,
    draw: Draw | None = None,
    updates: int = 60,
    inner_steps: int = 1,
    lr: float = 0.2,
) -> Tensor:
    """π(y) [4] * L that an algorithm ends with."""
    policy, reference = TablePolicy(language), TablePolicy(language)
    critic = TableCritic(language) if algorithm.critic else None
    draw = draw or in_one_group(language)

    def collect(update: int) -> tuple[Experience, dict[str, float]]:
        offset = torch.rand((), generator=generator(0, "offset", update)).item()
        completions, rewards = draw(policy, offset)
        groups = 1 + completions[-1].prompt_index
        rollouts = online.collect(
            [PROMPT] * groups, completions, rewards=rewards, reference=reference.logprobs, critic=critic,
            group_size=len(completions) // groups, pad_id=PAD, max_tokens=10**6,
        )  # fmt: skip
        experience = algorithm.prepare(rollouts, kl_coef)
        return experience, online.rollout_metrics(rollouts, experience)

    fit(
        {"policy": policy} | ({"value": critic} if critic else {}),
        steps=updates * inner_steps,
        batch_at=online.step_batches(collect, algorithm, inner_steps, max_tokens=10**6),
        loss=online.loss_of(algorithm, policy.logprobs_and_entropy, critic),
        optimizer=OptimizerSettings(lr=lr, schedule="linear", betas=(0.8, 0.9)),
        seed=0,
        name="golden",
    )
    return policy.table().detach().exp()
