"""Requests to a server, several at a time."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """`function` of each item, in their order, on so many threads.

    Raises what the first failure in that order raised; items that were not begun by the first one in time are left out.
    """
    failed = threading.Event()

    def one(item: Item) -> list[Result]:
        if failed.is_set():  # what another thread met is raised below; the rest need not wait for it too
            return []
        try:
            return [function(item)]
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        return [result for results in list(pool.map(one, items)) for result in results]
