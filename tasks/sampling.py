"""Prompts that fit, and what a policy answers to them: the first half of every stage that scores completions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlhf.models import Policy
from rlhf.records import Row
from rlhf.sampler import Completion, sample
from tasks.config.generation import Generation
from tasks.prompts import usable_prompts


@dataclass(frozen=True, slots=True)
class Sampled:
    """P prompts and G completions of each, prompt 0's first."""

    rows: list[Row]
    prompts: list[list[int]]
    """Token ids of each row's prompt."""
    completions: list[Completion]
    dropped: dict[str, float]
    """Prompts that did not fit, counted (`tasks.prompts`)."""


def sample_prompts(
    policy: Policy,
    rows: Iterable[Row],
    generation: Generation,
    *,
    group_size: int,
    seed: int,
    pool: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sampled:
    """`group_size` completions of each usable prompt, at most `limit` prompts of `pool` (`tasks.prompts`)."""
    usable, dropped = usable_prompts(rows, policy, generation.max_new_tokens, pool=pool, limit=limit)
    prompts = [policy.chat.encode_prompt(row["messages"]) for row in usable]
    completions = sample(
        policy,
        prompts,
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        group_size=group_size,
        seed=seed,
        batch_size=generation.batch_size,
        progress=progress,
    )
    return Sampled(usable, prompts, completions, dropped)
