"""That something goes on, where it may take more than a moment and there is nothing to count."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from flows.objects import told_size
from flows.summary import say
from flows.view import moving

MOMENT = 2.0  # seconds after which a log is told
EVERY = 10.0  # seconds between two lines on how far it has come


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


@contextmanager
def counting(text: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """The same where files are counted: what is yielded is told how many there were, and their bytes."""
    console = console or moving()
    if console.is_interactive:
        with console.status(text) as status:
            yield lambda files, size: status.update(f"{text}: {files} files, {told_size(size)}")
        return
    due = time.monotonic() + EVERY

    def told(files: int, size: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY
            say(f"{text}: {files} files, {told_size(size)} ...")

    with busy(text, console):
        yield told
