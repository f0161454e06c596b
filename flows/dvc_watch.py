"""A dvc command that takes long: it says what it waits for, hears when it is to stop, and is ended where it hangs."""

import configparser
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import psutil

from flows.processes import activity
from flows.summary import say
from rlhf.errors import DependencyDown, Preempted
from tasks.redact import address

SILENCE = 1800.0
"""Seconds in which nothing moves, after which it hangs: a storage takes minutes to put together what it was sent."""
_FIRST = 10.0  # seconds until it is told of, and twice that until the next time
_LOOK = 1.0  # seconds between two looks at what has moved
_WITH_A_REMOTE = ("push", "pull", "fetch", "update")

_cancel: ContextVar[threading.Event | None] = ContextVar("cancel", default=None)


@contextmanager
def heeding(cancel: threading.Event) -> Iterator[None]:
    """Inside, in this thread, dvc commands that work with a remote end with Preempted once `cancel` is set."""
    before = _cancel.set(cancel)
    try:
        yield
    finally:
        _cancel.reset(before)


class Watch:
    """On one command while it goes on. One that is slow is never ended, as long as anything moves."""

    def __init__(self, root: Path, arguments: Sequence[str], pid: int) -> None:
        self._root, self._pid = root, pid
        self._command, self._remote = f"dvc {arguments[0]}", arguments[0] in _WITH_A_REMOTE
        self._began = self._moved = self._looked = time.monotonic()
        self._seen = (0, 0)
        self._next = _FIRST

    def look(self) -> None:
        """Raises Preempted where it is to stop, DependencyDown where it hangs; says now and then that it goes on."""
        cancel = _cancel.get() if self._remote else None
        if cancel and cancel.is_set():
            raise Preempted(f"stopped while `{self._command}` was at work; what it has moved counts")
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        seen = activity(self._pid)
        if seen != self._seen:
            self._seen, self._moved = seen, now
        if now - self._moved > SILENCE:
            raise DependencyDown(self._hangs(now - self._moved))
        if now - self._began > self._next:
            self._next *= 2
            say(self._goes_on(now))

    def _goes_on(self, now: float) -> str:
        still = now - self._moved
        what = f"nothing has moved for {still:.0f} s" if still > _FIRST / 2 else f"{self._seen[0] / 1e6:.1f} MB so far"
        held = f"; another dvc, process {pid}, holds its lock" if (pid := self._locked_by()) else ""
        return f"waiting for `{self._command}`{self._with()}, {now - self._began:.0f} s by now: {what}{held}"

    def _hangs(self, still: float) -> str:
        ended = f"`{self._command}` was ended, as nothing had moved for {still / 60:.0f} minutes{self._with()}"
        if self._remote:
            return f"{ended}: see that it is up and that this host reaches it, and run again; what has moved counts"
        return f"{ended}: see whether the disks of {self._root} and of DVC's cache answer, and run again"

    def _with(self) -> str:
        """The default remote, as files of the checkout name it: dvc itself may hang."""
        if not self._remote:
            return ""
        book = configparser.ConfigParser(interpolation=None, strict=False)
        with suppress(configparser.Error, OSError, UnicodeError):
            book.read([self._root / ".dvc/config", self._root / ".dvc/config.local"], encoding="utf-8")
        name = book.get("core", "remote", fallback="")
        url = book.get(f"'remote \"{name}\"'", "url", fallback="")
        return f" (DVC remote {name} at {address(url)})" if name and url else " (DVC remote)"

    def _locked_by(self) -> int:
        """The process that has DVC's lock of this checkout, 0 for none but the one that is watched."""
        with suppress(OSError, ValueError):
            holder = int((self._root / ".dvc/tmp/lock").read_text(encoding="utf-8").split()[0])
            return holder if holder != self._pid and psutil.pid_exists(holder) else 0
        return 0
