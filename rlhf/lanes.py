"""Pieces of arithmetic that do not need each other, two at a time: a second thread of Python takes some of them.

torch lets go of the interpreter inside an operation, so two threads fill two cores. One that waits does not spin, so a
core that is busy with something else costs nothing. A piece computes the same bytes wherever it runs, as long as it
draws no random numbers and switches nothing that the other looks at: adapters, for one.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from rlhf import distributed
from rlhf.spending import ACCOUNT

T = TypeVar("T")
R = TypeVar("R")

SMALL = 2**22
"""Weights up to which a model may have two passes at once, each with activations of its own."""
_narrow: list[bool] = []


@contextmanager
def one_lane() -> Iterator[None]:
    """Inside there is one, for what is measured beside others, or must know of every operation in its own thread."""
    _narrow.append(True)
    try:
        yield
    finally:
        _narrow.pop()


def two_lanes(weights: Iterable[Tensor]) -> bool:
    """Whether there are two for what reads these weights: few ones on a processor, where torch has one thread and no
    other process is at the same work."""
    if _narrow or torch.get_num_threads() > 1 or ACCOUNT.processes > 1 or distributed.group().size > 1:
        return False
    return few(weights)


def few(weights: Iterable[Tensor]) -> bool:
    """Whether there may be two: by the weights alone, which is for what decides bytes."""
    weights = list(weights)
    return all(weight.is_cpu for weight in weights) and 0 < sum(map(Tensor.numel, weights)) <= SMALL


def in_lanes(do: Callable[[T], R], pieces: Iterable[T], two: bool) -> Iterator[R]:
    """`do` of each piece, in their order, told as the main thread comes to it; all results may be there at once.

    An error in either lane ends both, once the other's piece is done.
    """
    if not two:
        yield from map(do, pieces)
        return
    left, done, told = deque(enumerate(pieces)), dict[int, R](), 0
    began = time.perf_counter()

    def one() -> bool:
        try:
            number, piece = left.popleft()
        except IndexError:
            return False
        done[number] = do(piece)
        return True

    def all_of_them() -> None:
        try:
            while one():
                pass
        finally:
            left.clear()

    beside: list[Future[None]] = []
    try:
        beside.append(_pool(os.getpid()).submit(all_of_them))
        while one():
            while told in done:
                yield done.pop(told)
                told += 1
        beside[0].result()
        yield from (done.pop(number) for number in sorted(done))
    finally:
        left.clear()
        wait(beside)
        ACCOUNT.seconds_in_two += time.perf_counter() - began


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Of this process, as threads do not live on in one that is forked; kept, as a new one has no memory at hand."""
    return ThreadPoolExecutor(1)
