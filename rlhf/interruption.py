"""Asked to stop: a training ends after the step that it is in, with that step saved; anything else ends at once.

SIGTERM says that the machine will be taken away, SIGINT is Ctrl-C. A second one ends the process where it stands: a
kill at any moment spoils nothing.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import Preempted

PARENT_GONE = signal.SIGUSR1
"""What a process gets whose starter has ended; a first request, never a second."""
MOMENT = 1.0
"""Seconds within which two requests are one: who stops a service asks all its processes, and these ask each other."""


class Interruption:
    """Requests to stop this process; its main thread alone trains."""

    def __init__(self) -> None:
        self.asked = ""
        """Who asked: the name of the first signal."""
        self._since: float | None = None
        self._inside = False

    def heed(self) -> None:
        """Take signals as requests from now on. Call in the main thread of a program of its own."""
        for number in (signal.SIGTERM, signal.SIGINT, PARENT_GONE):
            signal.signal(number, self._ask)

    @contextmanager
    def after_the_step(self) -> Iterator[None]:
        """Inside, a request only sets `asked`: who is inside looks at it when a step is done. Raises Preempted late."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
        if self.asked:
            raise self.error("what it trained is done")

    def error(self, done: str) -> Preempted:
        """What to raise, with what is done by now."""
        who = "its parent process has ended" if self.asked == PARENT_GONE.name else self.asked
        return Preempted(f"stopped ({who}): {done}; the same command goes on from there")

    def _ask(self, number: int, _: object) -> None:
        now = time.monotonic()
        if number != PARENT_GONE:
            if self._since is not None and now - self._since >= MOMENT:
                os.write(2, b"stopped at once; what was saved before is whole\n")
                os._exit(Preempted.exit_code)
            self._since = now if self._since is None else self._since
        self.asked = self.asked or signal.Signals(number).name
        if not self._inside:
            raise self.error("no training was under way")


STOP = Interruption()
"""Of this process."""
