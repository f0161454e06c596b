"""Pieces of work of one stage in several processes, where nothing but time depends on which of them does what.

Each piece leaves what it makes in a file, where the others find it (`tasks.measurements`). So this process goes through
all of them afterwards: what a process beside it has not done, or has failed at, is done here, and said here.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.spending import ACCOUNT

SMALL = 2**26
"""Bytes of a model on disk up to which several processes may each work with it."""
_PR_SET_PDEATHSIG = 1

Piece = Callable[[], object]


def processes(model: Path) -> int:
    """How many processes are better than as many threads: all threads of the stage where the model is small and on a
    processor, which cannot divide the small work that it makes; else one."""
    import torch

    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return 1 if size > SMALL or torch.cuda.is_available() else torch.get_num_threads()


def share(pieces: Sequence[Piece], count: int) -> None:
    """Do all pieces in so many processes, this one among them. Call it before torch has worked with several threads:
    of those a process that is forked has none, and waits for them for ever."""
    queue, filled = os.pipe()
    os.write(filled, bytes(range(len(pieces))))
    os.close(filled)
    told, tell = os.pipe()
    helpers = [_helper(pieces, queue, tell) for _ in range(count - 1)]
    os.close(tell)
    try:
        _take(pieces, queue)
        with open(told, encoding="utf-8") as file:  # to its end, which is that of the helpers
            for line in file:
                ACCOUNT.add(**json.loads(line))
    except BaseException:
        for helper in helpers:
            os.kill(helper, signal.SIGKILL)
        raise
    finally:
        os.close(queue)
        for helper in helpers:
            os.waitpid(helper, 0)


def _take(pieces: Sequence[Piece], queue: int) -> None:
    """Pieces by their numbers in the queue, of which each is read by one process."""
    while number := os.read(queue, 1):
        pieces[number[0]]()


def _helper(pieces: Sequence[Piece], queue: int, tell: int) -> int:
    """The process id of one that takes pieces, tells what they cost, and ends; whatever happens, without a word."""
    parent = os.getpid()
    if child := os.fork():
        return child
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            before = dict(ACCOUNT.counts)
            _take(pieces, queue)
            spent = {name: count - before[name] for name, count in ACCOUNT.counts.items()}
            os.write(tell, json.dumps(spent).encode() + b"\n")
    finally:
        os._exit(0)
