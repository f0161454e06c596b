"""The line that trouble with MLflow does not cross."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from tasks.journal import home
from tasks.redact import redacted

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds that MLflow gets at the end of a run: a slow server takes one minute, one that hangs would take for ever."""
LATER = "shipped by the next `preflow run` or `preflow status`"
GAVE_UP = os.EX_TEMPFAIL
"""Exit code of a process that had no more patience with MLflow."""

_PAUSE = 30.0  # seconds without a try after a failed one, so that a slow server does not slow the run
_quiet_until = 0.0
_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside, in this thread, MLflow's server gets so many seconds for everything that it is asked."""
    before = _until.set(min(_until.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.reset(before)


def left() -> float:
    """Seconds that it still gets; without `within` there is no end to them."""
    return max(0.0, _until.get() - time.monotonic())


def guarded(root: Path, ship: Callable[[], T], patient: bool = False) -> T | None:
    """The result of `ship`; None after a failure, with a line on it. `patient` tries even soon after one."""
    global _quiet_until
    if time.monotonic() < _quiet_until and not patient:
        return None
    try:
        done = ship()
    except Exception as error:
        if _quiet_until == 0.0 or patient:
            say(f"MLflow: {sentence(error)}; kept in {home(root) / 'journal'}, {LATER}")
        _quiet_until = time.monotonic() + _PAUSE
        return None
    _quiet_until = 0.0
    return done


def say(line: str) -> None:
    """To whoever started us, who may be gone: then there is nobody to tell, and the work goes on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def sentence(error: Exception) -> str:
    """An error on one short line, without secrets."""
    text = redacted(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= 160 else f"{text[:159]}…"
