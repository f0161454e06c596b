"""Preference pairs as tokens: chosen and rejected go through a model in one forward pass."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf.batching import Batch, collate, micro_batches
from rlhf.chat import Chat


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison; both sides begin with the same prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    """The preferred completion, its stop token included."""
    rejected_ids: list[int]

    @property
    def padded_tokens(self) -> int:
        """Tokens that the pair takes in a batch, both sides as long as the longer one."""
        return 2 * (len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids)))


def encode_pairs(chat: Chat, rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Rows with `messages`, `chosen` and `rejected` as token ids, in order."""
    return [
        Pair(
            chat.encode_prompt(row["messages"]),
            chat.encode_completion(row["chosen"]),
            chat.encode_completion(row["rejected"]),
        )
        for row in rows
    ]


def pair_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """B pairs as one batch of 2B sequences, the B chosen ones first; the loss mask is on completions."""
    sides = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    sides += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    return collate([([*prompt, *ids], [False] * len(prompt) + [True] * len(ids)) for prompt, ids in sides], pad_id)


def pair_micro_batches(pairs: Sequence[Pair], max_tokens: int) -> list[list[int]]:
    """Indices of pairs, cut into micro-batches of at most `max_tokens` tokens, padding counted."""
    return micro_batches([pair.padded_tokens for pair in pairs], max_tokens)


def split_sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """[2B, …] of a `pair_batch` into chosen and rejected, [B, …] each."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected
