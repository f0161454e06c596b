"""What must hold before a run starts, and what may be cleared after it."""

import fcntl
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rlhf.errors import Busy, Preempted, PreflowError
from tasks import locks
from tasks.journal import home

FREE_BYTES = 2 * 1024**3
_LOOK = 0.5  # seconds between two looks at whether a wait was stopped


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


def held(path: Path, who: str, wait: float = 0.0, shared: bool = False) -> AbstractContextManager[None]:
    """One run a tree: see `tasks.locks.held`."""
    return locks.held(path, who, "this workspace", wait=wait, shared=shared)


def is_held(lock: Path) -> bool:
    """Whether some process holds this lock."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return locks.lives(lock)


def going_on(root: Path, who: str) -> AbstractContextManager[None]:
    """Any number of runs at a time, in whatever trees: as long as they go on, no data that they may need is removed."""
    return held(home(root) / "data.lock", who, shared=True)


def removing(root: Path, who: str) -> AbstractContextManager[None]:
    """One at a time removes data, and only while no run goes on; it refuses to wait, and so do they."""
    return held(home(root) / "data.lock", who)


def promoting(
    root: Path, who: str, say: Callable[[str], None], cancel: threading.Event | None = None
) -> AbstractContextManager[None]:
    """One at a time in a clone asks who is champion, registers another, and keeps and sends the refs; others wait."""
    return _in_turn(home(root) / "promotion.lock", who, say, cancel)


def inbox(
    root: Path, who: str, say: Callable[[str], None], cancel: threading.Event | None = None
) -> AbstractContextManager[None]:
    """One at a time fills data/inbox or reads it: DVC notes what lies there after the stage that has read it."""
    return _in_turn(home(root) / "inbox.lock", who, say, cancel)


@contextmanager
def _in_turn(path: Path, who: str, say: Callable[[str], None], cancel: threading.Event | None) -> Iterator[None]:
    """Wait until no other holds it, and say for whom.

    Raises:
        Preempted: `cancel` was set while another was at it; the message names that one.
    """
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path, who, wait=_LOOK))
                break
            except Busy:
                holder = locks.holder(path)
            other = holder.name if holder else "another process"
            if cancel and cancel.is_set():
                raise Preempted(f"stopped while it waited for {other}")
            if not told:
                say(f"{who}: waiting for {other}")
                told = True
        yield


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
