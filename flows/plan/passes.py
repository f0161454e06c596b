"""The largest pass of a stage: batches of its rows, drawn and cut as the stage does."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import mean

from rlhf.cutting import micro_batches
from rlhf.sizes import Pass

BATCHES = 32
"""That are drawn; of rows of all lengths one of them comes near the largest there will be."""
WINDOW = 16
"""`rlhf.epochs.WINDOW`: batches that are put together by length."""


@dataclass(frozen=True)
class Rows(Pass):
    """A pass with what it is made of."""

    rows: tuple[tuple[int, float, float], ...] = ()
    """Number of a prompt, which rows share, and tokens of prompt and answer."""


@dataclass(frozen=True)
class Lengths:
    """Rows of a stage's data in tokens: the prompt, then the answer, or the answers that are compared."""

    rows: tuple[tuple[float, ...], ...]

    @cached_property
    def prompt(self) -> float:
        """Mean."""
        return mean(row[0] for row in self.rows)

    @cached_property
    def answer(self) -> float:
        """Mean."""
        return mean(answer for row in self.rows for answer in row[1:])

    @cached_property
    def longest(self) -> float:
        """A prompt with its longest answer."""
        return max(row[0] + max(row[1:]) for row in self.rows)

    def answered(self, answers: int, tokens: int) -> "Lengths":
        """The prompts with so many answers of so many tokens."""
        return Lengths(tuple((row[0], *[float(tokens)] * answers) for row in self.rows))

    def cut(self, tokens: int) -> "Lengths":
        """Without the rows that are longer, which stages leave out."""
        kept = tuple(row for row in self.rows if row[0] + max(row[1:]) <= tokens)
        return replace(self, rows=kept) if kept else self


def largest(
    lengths: Lengths,
    batch_size: int,
    limit: int,
    cost: Callable[[Pass], float],
    *,
    by_length: bool = False,
    together: bool = False,
    whole: bool = False,
) -> Rows:
    """The pass of highest `cost` among those of some batches.

    Args:
        limit: tokens of a pass, padding counted.
        by_length: batches are of rows of about one length, as those of supervised training.
        together: the answers of a row stay in one pass, as those of a pair.
        whole: the loss is on prompts too.
    """
    return max(_all(lengths, batch_size, limit, by_length, together, whole), key=cost)


@lru_cache(maxsize=64)
def _all(
    lengths: Lengths, batch_size: int, limit: int, by_length: bool, together: bool, whole: bool
) -> frozenset[Rows]:
    batches = _batches(lengths, batch_size, by_length)
    return frozenset(one for batch in batches for one in _passes(batch, limit, together, whole))


def _batches(lengths: Lengths, size: int, by_length: bool) -> Iterator[list[tuple[float, ...]]]:
    """Rows that come once a pass over the data; a batch is smaller where there are fewer."""
    draw = random.Random(0)
    for _ in range(BATCHES // WINDOW if by_length else BATCHES):
        some = draw.sample(lengths.rows, min(len(lengths.rows), WINDOW * size if by_length else size))
        if by_length:
            some.sort(key=sum)
        yield from (some[first : first + size] for first in range(0, len(some), size))


def _passes(batch: Sequence[tuple[float, ...]], limit: int, together: bool, whole: bool) -> Iterator[Rows]:
    if together:
        sizes = [(len(row) - 1) * round(row[0] + max(row[1:])) for row in batch]
        parts = micro_batches(sizes, max(limit, *sizes))
        found = [[(number, answer) for number in part for answer in batch[number][1:]] for part in parts]
    else:
        sequences = [(number, answer) for number, row in enumerate(batch) for answer in row[1:]]
        sizes = [round(batch[number][0] + answer) for number, answer in sequences]
        parts = micro_batches(sizes, max(limit, *sizes), [number for number, _ in sequences])
        found = [[sequences[place] for place in part] for part in parts]
    for part in found:
        prompts = sum(batch[number][0] for number in {number for number, _ in part})
        answers = sum(answer for _, answer in part)
        read = sum(batch[number][0] for number, _ in part) if whole else 0.0
        places = len(part) * max(batch[number][0] + answer for number, answer in part)
        rows = tuple((number, batch[number][0], answer) for number, answer in part)
        one = Rows(round(places), round(prompts + answers), round(answers + read), len(found) > 1, rows)
        yield one if one.packed else replace(one, tokens=one.places)
