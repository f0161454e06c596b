"""One teller at a time, over all processes; who waits for another knows for how long, and for whom."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from tasks import locks

WAIT = 60.0
"""Seconds after which another is left to it: what is not told now is told by a later command."""


def telling(path: Path, what: str, wait: bool = True) -> AbstractContextManager[None]:
    """Hold a lock file while inside.

    Raises:
        Busy: another process holds it still; the message names that.
    """
    who = " ".join(word.rpartition("/")[2] for word in sys.orig_argv)[:60]
    return locks.held(path, who, what, wait=WAIT if wait else 0.0)
