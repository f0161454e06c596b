"""A step cut into micro-batches that fit."""

import math
from collections.abc import Hashable, Sequence


def micro_batches(
    lengths: Sequence[int], max_tokens: int, beginnings: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Cut rows into micro-batches of at most `max_tokens` tokens, padding counted.

    Rows are taken by length (ties by index), so that padding is small. Those with the same beginning, a prompt's, stay
    together in the order of the longest of them: a model reads what they share once (`rlhf.models.packing`). The result
    depends on lengths and beginnings alone. Raises ValueError where one row alone is longer than `max_tokens`.
    """
    beginnings = range(len(lengths)) if beginnings is None else beginnings
    first: dict[Hashable, int] = {}
    longest: dict[Hashable, int] = {}
    for row, (length, beginning) in enumerate(zip(lengths, beginnings, strict=True)):
        first.setdefault(beginning, row)
        longest[beginning] = max(length, longest.get(beginning, 0))

    def place(row: int) -> tuple[int, int, int, int]:
        beginning = beginnings[row]
        return longest[beginning], first[beginning], lengths[row], row

    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=place):
        if lengths[row] > max_tokens:
            raise ValueError(
                f"row {row} has {lengths[row]} tokens, a micro-batch holds {max_tokens}: raise max_batch_tokens"
            )
        width = max(width, lengths[row])
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = lengths[row]
        batches[-1].append(row)
    return batches


def two_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """As `micro_batches`, and two at least where there are two rows: they may go through a model at once."""
    half = max(lengths) * math.ceil(len(lengths) / 2)
    return micro_batches(lengths, min(max_tokens, half))
