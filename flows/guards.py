"""What must hold before a run starts, and what may be cleared after it."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rlhf.errors import Busy, PreflowError
from tasks.journal import home

FREE_BYTES = 2 * 1024**3


def check_disk(root: Path, needed: int = FREE_BYTES) -> None:
    """Refuse to start what could not be finished.

    Raises:
        PreflowError: less than `needed` bytes are free.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        raise PreflowError(
            f"{free / 1024**3:.1f} GB free on the disk of {root}, at least {needed / 1024**3:.0f} GB are needed; "
            "make room: .preflow/scratch (checkpoints of unfinished stages) and .preflow/worktrees (kept with --keep) "
            "may be deleted while no run goes on"
        )


@contextmanager
def held(path: Path, who: str, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """One run a tree: an advisory lock that the kernel drops when the process dies, however it dies.

    Args:
        wait: for the one that has it.
        shared: with others that have it so, and with nobody else.

    Raises:
        Busy: another has it, and this one is not to `wait`; the message names who, process and machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Busy(f"this workspace is in use by {holder}; wait for it, or end it with Ctrl-C there") from None
        file.seek(0)
        file.truncate()
        file.write(f"{who}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_held(lock: Path) -> bool:
    """Whether some process holds this lock."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def going_on(root: Path, who: str) -> AbstractContextManager[None]:
    """Any number of runs at a time, in whatever trees: as long as they go on, no data that they may need is removed."""
    return held(home(root) / "data.lock", who, shared=True)


def removing(root: Path, who: str) -> AbstractContextManager[None]:
    """One at a time removes data, and only while no run goes on; it refuses to wait, and so do they."""
    return held(home(root) / "data.lock", who)


def promoting(root: Path, who: str) -> AbstractContextManager[None]:
    """One at a time in a clone asks who is champion, registers another, and keeps and sends the refs; others wait."""
    return held(home(root) / "promotion.lock", who, wait=True)


def forget(scratch: Path) -> None:
    """Remove the scratch folder of a finished stage key, unless somebody is at work in it."""
    lock = scratch.with_suffix(".lock")
    if not scratch.is_dir():
        return
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(scratch, ignore_errors=True)
        lock.unlink(missing_ok=True)
