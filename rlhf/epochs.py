"""Which rows a step of supervised or preference training sees."""

import math
from collections.abc import Sequence

import numpy as np

from rlhf.seeding import derive


def num_steps(num_rows: int, batch_size: int, epochs: int) -> int:
    """Optimiser steps of `epochs` passes, the last batch of each may be small. ValueError where there are no rows."""
    if num_rows < 1:
        raise ValueError("there are 0 rows to train on, expected at least 1: look at the stage's input files")
    return epochs * math.ceil(num_rows / batch_size)


def rows_at(step: int, num_rows: int, batch_size: int, seed: int) -> list[int]:
    """Row numbers of a step: each pass takes every row once, in an order of its own."""
    epoch, batch = divmod(step, math.ceil(num_rows / batch_size))
    order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(num_rows)
    return [int(row) for row in order[batch * batch_size : (batch + 1) * batch_size]]


def full_batch(step: int, num_rows: int, batch_size: int, seed: int) -> list[int]:
    """As `rows_at`, but passes run on into each other: every batch is full, or all rows where there are fewer.

    The batch with the last rows of a pass is filled up with the first of the next; those it has already come later in
    that pass, so that no batch holds a row twice.
    """
    size = min(batch_size, num_rows)
    first = step * size
    # The rows that end a pass are those of its shuffle, unless the batch that began the pass reaches as far as them.
    start = max(0, first // num_rows - 1) if num_rows >= 2 * size else 0
    rows: list[int] = []
    for epoch in range(start, (first + size - 1) // num_rows + 1):
        order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(num_rows).tolist()
        begun = epoch * num_rows % size  # rows of the pass before in the batch that this one fills up
        if begun and rows:
            there = set(rows[-begun:])
            head = [row for row in order if row not in there][: size - begun]
            taken = set(head)
            order = head + [row for row in order if row not in taken]
        rows += order
    return rows[first - start * num_rows :][:size]


WINDOW = 16


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one pass, rows of about one length together so that little is padding.

    Rows are shuffled, cut into windows of 16 batches, sorted by length within a window and cut into batches; the
    batches are shuffled again. Every row comes once, the number of batches is ceil(rows / batch_size).
    """
    rng = np.random.default_rng(derive(seed, "epoch", epoch))
    order = rng.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), WINDOW * batch_size):
        window = sorted(order[start : start + WINDOW * batch_size], key=lambda row: lengths[row])
        batches += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]
