"""Ctrl-C and SIGTERM, while a command works."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import Preempted
from rlhf.interruption import Stopped


@contextmanager
def stoppable() -> Iterator[tuple[threading.Event, threading.Event]]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C ends this process at once, and its children die with it.

    Until the second event is set, what the main thread does ends with Stopped: it may wait for git or dvc.
    """
    cancel, begun = threading.Event(), threading.Event()

    def ask(*_: object) -> None:
        if not begun.is_set():
            stop_now()
        if cancel.is_set():
            os._exit(Preempted.exit_code)
        print("\nstopping … (once more to stop at once)", file=sys.stderr, flush=True)
        threading.Thread(target=cancel.set).start()  # not here: this very thread may hold the event's lock

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel, begun
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_now(*_: object) -> None:
    """A signal handler that ends what the main thread does."""
    raise Stopped("stopped; the same command starts over")
