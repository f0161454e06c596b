"""What is done now and then, beside a stage that works."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def now_and_then(seconds: float, do: Callable[[int], None]) -> Iterator[None]:
    """While inside, call `do` after each wait of so many seconds, with how often it was called, from 1 on; in a thread.

    What it is at is waited for at the end. An error of its ends the calls.
    """
    over = threading.Event()

    def work() -> None:
        count = 0
        while not over.wait(seconds):
            count += 1
            do(count)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()
