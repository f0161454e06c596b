"""All comparisons of a prompt in one batch: each completion goes through the model once, however often it was compared.

Pairs of one prompt share completions, so shuffling them as if they were independent overfits (InstructGPT, 2203.02155).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.chat import Chat


@dataclass(frozen=True, slots=True)
class Comparisons:
    """One prompt, its completions, and who was preferred to whom."""

    group: str
    """The prompt's group, which splits never cut."""
    prompt_ids: list[int]
    completions: list[list[int]]
    """Token ids, the stop token included."""
    pairs: list[tuple[int, int]]
    """(chosen, rejected) as indices into `completions`."""
    margins: list[float] = field(default_factory=list)
    """By how much each pair's chosen side was liked better, as its row says; 0 where it does not."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion."""
        return len(self.prompt_ids) + max(map(len, self.completions))


def by_prompt(chat: Chat, rows: Iterable[Mapping[str, Any]]) -> list[Comparisons]:
    """Preference rows gathered by prompt, prompts in the order they first appear."""
    found: dict[tuple[int, ...], Comparisons] = {}
    for row in rows:
        prompt_ids = chat.encode_prompt(row["messages"])
        one = found.setdefault(tuple(prompt_ids), Comparisons(row["group"], prompt_ids, [], []))
        sides = []
        for side in ("chosen", "rejected"):
            ids = chat.encode_completion(row[side])
            if ids not in one.completions:
                one.completions.append(ids)
            sides.append(one.completions.index(ids))
        one.pairs.append((sides[0], sides[1]))
        one.margins.append(float(row.get("margin") or 0.0))
    return list(found.values())


@dataclass(frozen=True, slots=True)
class ComparisonBatch:
    """All completions of some prompts as one batch, and how they compare."""

    batch: Batch
    chosen: Tensor
    """[pairs] rows of `batch` that were preferred."""
    rejected: Tensor
    """[pairs] rows that these were preferred to."""
    margin: Tensor
    """[pairs] float32."""
    share: Tensor
    """[pairs] 1/C for the C pairs of a prompt, so that all prompts count alike (InstructGPT's 1/C(K, 2))."""


def comparison_batch(prompts: Sequence[Comparisons], pad_id: int) -> ComparisonBatch:
    """Prompts with all their completions, each once; pairs in the order of the prompts."""
    sequences: list[tuple[list[int], list[bool]]] = []
    chosen: list[int] = []
    rejected: list[int] = []
    for one in prompts:
        first = len(sequences)
        chosen += [first + winner for winner, _ in one.pairs]
        rejected += [first + loser for _, loser in one.pairs]
        for ids in one.completions:
            mask = [False] * len(one.prompt_ids) + [True] * len(ids)
            sequences.append(([*one.prompt_ids, *ids], mask))
    margins = [margin for one in prompts for margin in (one.margins or [0.0] * len(one.pairs))]
    shares = [1 / len(one.pairs) for one in prompts for _ in one.pairs]
    return ComparisonBatch(
        collate(sequences, pad_id),
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.tensor(margins),
        torch.tensor(shares),
    )


def comparison_micro_batches(prompts: Sequence[Comparisons], max_tokens: int) -> list[list[int]]:
    """Indices of prompts, cut into micro-batches of at most `max_tokens` tokens, padding counted.

    A batch is as wide as its longest completion, whichever prompt that is of, so prompts are taken by length (ties by
    index). Raises ValueError where the completions of one prompt alone take more.
    """
    batches: list[list[int]] = []
    rows = 0
    for index in sorted(range(len(prompts)), key=lambda index: (prompts[index].longest, index)):
        one = prompts[index]
        if len(one.completions) * one.longest > max_tokens:
            raise ValueError(
                f"prompt {index} has {len(one.completions)} completions of up to {one.longest} tokens, "
                f"a micro-batch holds {max_tokens}: raise max_batch_tokens"
            )
        rows += len(one.completions)
        if not batches or rows * one.longest > max_tokens:
            batches.append([])
            rows = len(one.completions)
        batches[-1].append(index)
    return batches
