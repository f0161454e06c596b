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
