"""What processes that train together (`rlhf.distributed`) do between their steps: all sample, and one scores."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from rlhf import distributed
from rlhf.models import Policy
from rlhf.rewards import Asked, Score, Scored
from rlhf.sampler import Completion, Sampler, sample


def sample_together(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    group_size: int,
    seed: int,
    batch_size: int = 512,
) -> list[Completion]:
    """What `sample` gives, with the prompts dealt out to all processes: each has all completions in the end.

    A draw belongs to (seed, prompt, sample, step), so it is the same whoever makes it.
    """
    group = distributed.group()
    order = range(len(prompts)) if group.size == 1 else sorted(range(len(prompts)), key=lambda one: len(prompts[one]))
    own = group.share(order)
    completions = sample(
        policy,
        [prompts[index] for index in own],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        group_size=group_size,
        seed=seed,
        batch_size=batch_size,
        numbers=own,
    )
    if group.size == 1:
        return completions
    rows = _plain(replace(one, prompt_index=own[one.prompt_index]) for one in completions)
    found = [Completion(*row) for part in group.everyones(rows) for row in part]
    return sorted(found, key=lambda one: one.prompt_index)


def sampled_by_one(sampler: Sampler) -> Sampler:
    """`sampler`, asked by the first process alone, as one that stands for a server or holds a cache is there once."""
    group = distributed.group()
    if group.size == 1:
        return sampler

    def told(policy: Policy, prompts: Sequence[Sequence[int]], **how: Any) -> list[Completion]:
        rows = group.told(lambda: _plain(sampler(policy, prompts, **how)))
        return [Completion(*row) for row in rows]

    return told


def _plain(completions: Iterable[Completion]) -> list[list[Any]]:
    return [[one.prompt_index, one.ids, one.logprobs, one.stop_reason, one.policy_version] for one in completions]


def scored_by_one(score: Score) -> Score:
    """`score`, asked by the first process alone: a judge costs money, and may not say the same thing twice."""
    group = distributed.group()
    if group.size == 1:
        return score

    def told(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Scored:
        def plain() -> tuple[list[float], dict[str, list[float]], dict[str, float]]:
            found = score(prompts, completions)
            return found.total.tolist(), {name: one.tolist() for name, one in found.components.items()}, found.figures

        total, components, figures = group.told(plain)
        return Scored(torch.tensor(total), {name: torch.tensor(one) for name, one in components.items()}, figures)

    return told
