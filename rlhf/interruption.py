"""Asked to stop: a training ends after the step that it is in, with that step saved; anything else ends at once.

SIGTERM says that the machine will be taken away, SIGINT is Ctrl-C. A second one ends the process where it stands: a
kill at any moment spoils nothing.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import Preempted

PARENT_GONE = signal.SIGUSR1
"""What a process gets whose starter has ended; a first request, never a second."""
STACKS = signal.SIGUSR2
"""Has one of several processes of a training write to its stderr where each of its threads stands, though it hangs."""
MOMENT = 1.0
"""Seconds within which two requests are one: who stops a service asks all its processes, and these ask each other."""


def _saving() -> float:
    text = os.environ.get("PREFLOW_SAVING") or "30"
    try:
        if 1 <= (seconds := float(text)) < float("inf"):
            return seconds
    except ValueError:
        pass
    sys.exit(f"PREFLOW_SAVING={text}: expected seconds, 30 or as long as a step takes that is saved")


SAVING = _saving()
"""Seconds in which a training that is asked to stop may end its step and save it: what clusters give, too."""


class Stopped(BaseException):
    """Raised wherever the program happens to be; no `except Exception` on the way may take it for a failure."""

    exit_code = Preempted.exit_code


class Interruption:
    """Requests to stop this process; its main thread alone trains."""

    def __init__(self) -> None:
        self.asked = ""
        """Who asked: the name of the first signal."""
        self._since: float | None = None
        self._inside = False
        self._raised = ""

    def heed(self) -> None:
        """Take signals as requests from now on. Call in the main thread of a program of its own."""
        for number in (signal.SIGTERM, signal.SIGINT, PARENT_GONE):
            signal.signal(number, self._ask)

    @contextmanager
    def after_the_step(self) -> Iterator[None]:
        """Inside, a request only sets `asked`: who is inside looks at it when a step is done. Raises Preempted at last
        where nobody looked."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
        if self.asked:
            raise self.error("this training had ended")

    def error(self, done: str) -> Preempted:
        """What a training raises, with what is done by now."""
        return Preempted(f"stopped ({self._who()}): {done}; the same command goes on from there")

    def refuse_to_go_on(self) -> None:
        """Raises Stopped where that was raised before, and something on the way has swallowed it."""
        if self._raised:
            raise Stopped(self._raised)

    def _who(self) -> str:
        if self.asked == PARENT_GONE.name:
            return "its parent process has ended"
        return self.asked or "another process of this training was asked to"

    def _ask(self, number: int, _: object) -> None:
        now = time.monotonic()
        if number != PARENT_GONE:
            if self._since is not None and now - self._since >= MOMENT:
                os.write(2, b"stopped at once; what was saved before is whole\n")
                os._exit(Preempted.exit_code)
            self._since = now if self._since is None else self._since
        if self.asked:
            return  # it is on its way, or cleaning up
        self.asked = signal.Signals(number).name
        if not self._inside:
            self._raised = f"stopped ({self._who()}): no training was under way; the same command goes on from there"
            raise Stopped(self._raised)


STOP = Interruption()
"""Of this process."""
