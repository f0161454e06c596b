"""Again and again where a service is away: they come back, and a stage is worth the wait."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rlhf.errors import DependencyDown

T = TypeVar("T")

PATIENCE = 600.0  # seconds in which Prefect or a remote that is away may come back, before the stage has failed
AGAIN = 10.0  # seconds before another try


def patiently(
    what: Callable[[], T],
    cancel: threading.Event,
    say: Callable[[str], None],
    down: tuple[type[Exception], ...] = (DependencyDown,),
) -> T:
    """Do it until it is done; `down` says that a service is away.

    Raises:
        DependencyDown: it stays away for ten minutes, or `cancel` is set.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return what()
        except down as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            if cancel.is_set() or time.monotonic() > until:
                raise DependencyDown(why) from None
            say(f"{why}; trying again")
            cancel.wait(AGAIN)
