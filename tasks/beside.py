"""Pieces of work of one stage in two processes, where nothing but time depends on which of them does what.

Each piece leaves what it makes in a file, where the other finds it (`tasks.measurements`). So this process goes through
all of them afterwards: what the one beside it has not done, or has failed at, is done here, and said here.
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
"""Bytes of a model on disk up to which two processes may each work with it."""
_PR_SET_PDEATHSIG = 1

Piece = Callable[[], object]


def helps(model: Path) -> bool:
    """Whether a second process is worth it: for a small model on a processor, by a stage of one thread.

    A process that is forked waits for ever for threads that torch has started in this one, and macOS lets it do little.
    """
    import torch

    able = sys.platform == "linux" and torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return able and sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) <= SMALL


def share(pieces: Sequence[Piece]) -> None:
    """Do all pieces, in two processes, of which this is one."""
    queue, filled = os.pipe()
    os.write(filled, bytes(range(min(len(pieces), 256))))  # what has no number is done afterwards
    os.close(filled)
    told, tell = os.pipe()
    ACCOUNT.processes = 2
    helper = _helper(pieces, queue, tell)
    os.close(tell)
    try:
        _take(pieces, queue)
        with open(told, encoding="utf-8") as file:  # to its end, which is that of the helper
            ACCOUNT.add(**json.loads(file.read() or "{}"))
    except BaseException:
        os.kill(helper, signal.SIGKILL)
        raise
    finally:
        os.close(queue)
        os.waitpid(helper, 0)


def _take(pieces: Sequence[Piece], queue: int) -> None:
    """Pieces by their numbers in the queue, each of which one process reads."""
    while number := os.read(queue, 1):
        pieces[number[0]]()


def _helper(pieces: Sequence[Piece], queue: int, tell: int) -> int:
    """The process id of one that takes pieces, tells what they cost, and ends; whatever happens, without a word."""
    parent = os.getpid()
    if child := os.fork():
        return child
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            before = dict(ACCOUNT.counts)
            _take(pieces, queue)
            spent = {name: count - before[name] for name, count in ACCOUNT.counts.items()}
            os.write(tell, json.dumps(spent).encode())
    finally:
        os._exit(0)
