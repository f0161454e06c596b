"""Processor seconds of everything that works on a question: this process, what it runs, and servers beside it.

Not the time on the wall, which other work on the machine stretches. A kernel that waits for a disk does not count.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCKS, LEAST, MOST = 3, 0.3, 20
"""Repeats are measured in blocks of `LEAST` seconds, or of `MOST` repeats: a server's clock has ticks of 10 ms."""


@dataclass(frozen=True)
class Clock:
    """Counts this process, what it has run to the end, and the trees of living processes."""

    servers: tuple[int, ...] = ()

    def used(self) -> float:
        """So far."""
        return sum(os.times()[:4]) + sum(map(_of_tree, self.servers))

    def each(self, do: Callable[[], object], blocks: int = BLOCKS) -> list[float]:
        """Seconds that one time takes, for each block of them."""
        found = []
        for _ in range(blocks):
            began, times = self.used(), 0
            while times == 0 or (times < MOST and self.used() - began < LEAST):
                do()
                times += 1
            found.append((self.used() - began) / times)
        return found

    def once(self, do: Callable[[], object]) -> float:
        """Of what can be done but once."""
        began = self.used()
        do()
        return self.used() - began


def _of_tree(pid: int) -> float:
    """Of a process and all below it, those that have ended too."""
    return sum(_own(each) for each in _tree(pid)) / os.sysconf("SC_CLK_TCK")


def _own(pid: int) -> int:
    """Ticks in user and system mode, of itself and of children that it has waited for."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended: its parent counts it
        return 0
    return sum(map(int, words[11:15]))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in below:
            yield from _tree(int(child))
