"""That something goes on, where it may take more than a moment and there is nothing to count."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from flows.summary import say
from flows.view import moving

MOMENT = 2.0  # seconds after which a log is told


@contextmanager
def busy(text: str, console: Console | None = None) -> Iterator[None]:
    """While this is entered a terminal shows `text` and that time passes; a log gets the line if it takes a while."""
    console = console or moving()
    if console.is_interactive:
        with console.status(text):
            yield
        return
    timer = threading.Timer(MOMENT, say, [f"{text} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
