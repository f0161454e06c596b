"""What this process spends: seconds by kind of work, tokens, and the floating-point operations that its models need.

`with spent("sample"):`, or the same as a decorator, charges the time inside to `sample` and to nothing around it, so
that the kinds add up to the whole. Models charge tokens and operations (`rlhf.models.needs`). One account a process:
its seconds are those of the main thread.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Literal, get_args

Kind = Literal["sample", "score", "train", "save", "other"]
COMPUTING: tuple[Kind, ...] = ("sample", "score", "train")
"""In which models compute."""
Count = Literal["tokens_processed", "tokens_trained", "tokens_sampled", "flops"]


class Account:
    """Seconds by kind and counts by name, from 0 on."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[Kind, float] = dict.fromkeys(get_args(Kind), 0.0)
        self.counts: dict[Count, float] = dict.fromkeys(get_args(Count), 0.0)
        self.precision = ""
        """Of the newest pass through a model: "float32", …"""
        self.processes = 1
        """That have worked at once; the counts are of all of them, the seconds of this one."""
        self.seconds_in_two = 0.0
        """In which two threads of this one have (`rlhf.lanes`)."""
        self._clock, self._since = clock, 0.0
        self._open: list[Kind] = []
        self._adding = Lock()

    @contextmanager
    def spent(self, kind: Kind) -> Iterator[None]:
        """Charge the time inside to `kind`; what is opened inside pauses it."""
        self._settle()
        self._open.append(kind)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def add(self, **counts: float) -> None:
        """Add to counts, from any thread (`rlhf.lanes`)."""
        with self._adding:
            for name, value in counts.items():
                self.counts[name] += value  # type: ignore[index]

    def _settle(self) -> None:
        _await_accelerator()
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


ACCOUNT = Account()
"""Of this process."""
spent = ACCOUNT.spent


def _await_accelerator() -> None:
    """What was only handed to it belongs to who handed it over."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # of a kernel that failed: whoever reads its result is told
            torch.cuda.synchronize()
