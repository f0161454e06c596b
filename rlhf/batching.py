"""Ragged token sequences to right-padded tensors.

Dimension letters used all over the library: B sequences, T tokens, V vocabulary, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B sequences padded on the right to one length T."""

    input_ids: Tensor
    """[B, T] long; the pad id after the last real token."""
    attention_mask: Tensor
    """[B, T] bool; True on real tokens."""
    loss_mask: Tensor
    """[B, T] bool; True on the tokens that are trained: completions, their stop token included."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.loss_mask.to(device))


def collate(sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], pad_id: int) -> Batch:
    """Pad (ids, loss mask) pairs on the right to the longest.

    Raises ValueError where a sequence is empty, its mask has another length, or its first token is to be trained
    (nothing comes before it, so the model says nothing about it).
    """
    if not sequences:
        raise ValueError("collate got 0 sequences, expected at least 1")
    for row, (ids, mask) in enumerate(sequences):
        if len(ids) == 0 or len(ids) != len(mask):
            raise ValueError(f"sequence {row}: {len(ids)} ids and {len(mask)} mask values, expected equal and above 0")
        if mask[0]:
            raise ValueError(f"sequence {row}: loss_mask is True on the first token, which no context predicts")
    width = max(len(ids) for ids, _ in sequences)
    input_ids = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids, _ in sequences])
    loss_mask = torch.tensor([[*mask, *[False] * (width - len(mask))] for _, mask in sequences])
    lengths = torch.tensor([len(ids) for ids, _ in sequences])
    return Batch(input_ids, torch.arange(width) < lengths[:, None], loss_mask)


def prompts_of(batch: Batch) -> list[tuple[int, ...]]:
    """What stands before the first token under the loss mask, of each row; the whole row where none is under it."""
    ends = torch.where(batch.loss_mask.any(1), batch.loss_mask.int().argmax(1), batch.attention_mask.sum(1)).tolist()
    return [tuple(ids[:end]) for ids, end in zip(batch.input_ids.tolist(), ends, strict=True)]
