"""What a side measures of itself: the timed steps, their tokens, its memory, and what its first step came to.

Light on purpose: threads are set by the environment before torch is imported, and this is imported before torch.
"""

import json
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def peak() -> float:
    """Most memory that the process ever had in RAM, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Finished(Exception):
    """The timed steps are done: what a stage does after its loop is not measured."""


class Clock:
    """Ticks once a step; the steps after the warm-up are timed. Make it after the imports and before any model."""

    def __init__(self, warmup: int, steps: int, device: str = "cpu") -> None:
        self._warmup, self._last, self._device = warmup, warmup + steps, device
        self._ticks = 0
        self._began, self._tokens_before, self._processor = 0.0, 0, 0.0
        self.tokens = 0
        """Real tokens so far: of the rows trained on, or sampled."""
        self.first: dict[str, float] = {}
        """What the first step came to, for the check that both sides do the same work."""
        self._base = peak()
        self._result: dict[str, Any] = {}
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def tick(self) -> bool:
        """A step is done; whether it was the last one that is timed."""
        self._ticks += 1
        if self._ticks not in (self._warmup, self._last):
            return False
        now = self._now()
        if self._ticks == self._warmup:
            self._began, self._tokens_before, self._processor = now, self.tokens, time.process_time()
            return False
        gross = peak()
        self._result = {
            "seconds": now - self._began,
            "processor_seconds": time.process_time() - self._processor,
            "tokens": self.tokens - self._tokens_before,
            "peak_gross": gross,
            "peak_net": gross - self._base,
        }
        if self._device == "cuda":
            import torch

            self._result["peak_net"] = self._result["peak_gross"] = torch.cuda.max_memory_allocated() / 2**20
        return True

    def _now(self) -> float:
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def write(self, path: Path, **further: Any) -> None:
        """Raises RuntimeError where the timed steps did not come to their end."""
        if not self._result:
            raise RuntimeError(f"{self._ticks} steps were made, expected {self._last}")
        path.write_text(json.dumps(self._result | {"first": self.first} | further, indent=1), encoding="utf-8")


def versions(*packages: str) -> Mapping[str, str]:
    """Of installed packages."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}
