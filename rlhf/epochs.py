"""Which rows a step of supervised or preference training sees."""

import math

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
