"""One teller at a time, over all processes; who waits for another knows for how long, and for whom."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlhf.errors import Busy

WAIT = 60.0
"""Seconds after which another is left to it: what is not told now is told by a later command."""


@contextmanager
def alone(path: Path, what: str, seconds: float = WAIT) -> Iterator[None]:
    """Hold a lock file while inside; 0 seconds do not wait.

    Raises:
        Busy: another process holds it still; the message names that.
    """
    until = time.monotonic() + seconds
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Busy(f"{_holder(path)} is at {what}; it ends by itself, or by `kill` if it hangs") from None
            time.sleep(0.1)
        with suppress(OSError):  # on a full disk nobody reads who it is
            file.truncate(0)
            file.write(f"process {os.getpid()} ({' '.join(map(_short, sys.orig_argv))[:60]})")
            file.flush()
        yield


def _short(word: str) -> str:
    return word.rpartition("/")[2]


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
