"""Answers that come in time, or not at all: whatever a server does, who asks it goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_time(do: Callable[[], T], seconds: float, what: str) -> T:
    """What `do` returns or raises, which goes on in a thread of its own and is left behind after so many seconds.

    A time-out of sockets is for each piece of an answer: a server that drips never runs into it.

    Raises:
        TimeoutError: it took longer; the message says `what` did.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(do())
        except BaseException as error:  # raised again where it is asked for
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():  # it came to an end by a time-out of its own
            raise
        raise TimeoutError(f"{what} was not done after {seconds:.0f} s") from None
