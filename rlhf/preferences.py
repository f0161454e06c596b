"""Labelled completions as tokens: what direct alignment learns from, in pairs or one by one."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.cutting import micro_batches


@dataclass(frozen=True, slots=True)
class Labelled:
    """One completion: a side of a pair, or good or bad by itself."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """Its stop token included."""
    desirable: bool
    """It was chosen, or labelled good."""

    @property
    def tokens(self) -> int:
        """Length of the whole sequence."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def key(self) -> str:
        """A name for what a model is asked about it: prompt and completion, whatever was said of them."""
        ids = array("q", [len(self.prompt_ids), *self.prompt_ids, *self.completion_ids])
        return sha256(ids.tobytes()).hexdigest()[:32]


Example = tuple[Labelled, ...]
"""What was judged together, all after one prompt: (chosen, rejected), or one completion by itself."""


def encode_example(chat: Chat, row: Mapping[str, Any]) -> Example:
    """A row with `messages` and either `chosen` and `rejected` or `completion` and `label`, as token ids."""
    prompt_ids = chat.encode_prompt(row["messages"])
    sides = (
        [(row["chosen"], True), (row["rejected"], False)] if "chosen" in row else [(row["completion"], row["label"])]
    )
    return tuple(Labelled(prompt_ids, chat.encode_completion(text), bool(good)) for text, good in sides)


def example_batch(examples: Sequence[Example], pad_id: int) -> tuple[Batch, Tensor]:
    """B examples of equal size as one batch, and [N] bool, which of its sequences are desirable.

    Pairs give N = 2B sequences, the B chosen ones first; single completions N = B. The loss mask is on completions.
    """
    judged = [one for side in zip(*examples, strict=True) for one in side]
    sequences = [
        ([*one.prompt_ids, *one.completion_ids], [False] * len(one.prompt_ids) + [True] * len(one.completion_ids))
        for one in judged
    ]
    return collate(sequences, pad_id), torch.tensor([one.desirable for one in judged])


def example_micro_batches(examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """Indices of examples of equal size, cut so that a batch has at most `max_tokens` tokens, padding counted."""
    return micro_batches([len(example) * max(one.tokens for one in example) for example in examples], max_tokens)


def split_sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """[2B, …] of a batch of pairs into chosen and rejected, [B, …] each."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def mismatched(judged: Sequence[Labelled], most_tokens: int | None = None) -> list[Labelled]:
    """Each prompt with the completion of the next one that belongs to another prompt; none where all prompts are equal.

    Next in the order desirable, undesirable, and round: so both kinds of completion are met, in equal shares. Of a long
    prompt with a long completion, neither of which was too long by itself, a model may have no room: completions that
    would make more than `most_tokens` with the prompt are passed over, and a prompt that none fits is left out.
    """
    ordered = sorted(judged, key=lambda one: not one.desirable)
    found: list[Labelled] = []
    for place, one in enumerate(ordered):
        others = (ordered[(place + step) % len(ordered)] for step in range(1, len(ordered)))
        crossed = (
            Labelled(one.prompt_ids, other.completion_ids, other.desirable)
            for other in others
            if other.prompt_ids != one.prompt_ids
        )
        fits = (pair for pair in crossed if most_tokens is None or pair.tokens <= most_tokens)
        found += list(islice(fits, 1))
    return found
