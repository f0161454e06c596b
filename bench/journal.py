"""How much of a step goes into saying what it came to: the loop writes a line to a file, and never waits for a tracker.

    python -m bench.journal      # SFT and GRPO of the tiny model, a minute

Whether MLflow is well, slow or dead cannot matter: no stage imports it, another process reads the file and tells it.
"""

import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench.page import table, write_between
from bench.speed.cells import chosen
from bench.speed.clock import Clock, Finished
from bench.speed.ours.common import Watch
from bench.speed.rows import tokens_of_steps
from bench.speed.sides import prepare
from bench.speed.store import modules
from tasks.journal import Log

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/faults.md"


class Timed(Watch):
    """The log that a stage has in a run, and the seconds spent in its calls."""

    def keep(self, folder: Path) -> None:
        """Write to a journal, as in a run."""
        Log.__init__(self, folder, "bench")
        self.calls, self.seconds = 0, 0.0

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        self._timed(lambda: Log.__call__(self, metrics, step))
        super().__call__(metrics, step)

    def progress(self, done: int, total: int, **figures: float) -> None:
        self._timed(lambda: Log.progress(self, done, total, **figures))
        super().progress(done, total, **figures)

    def _timed(self, call: Callable[[], None]) -> None:
        began = time.perf_counter()
        call()
        self.seconds += time.perf_counter() - began
        self.calls += 1


def main() -> None:
    """Measure both and renew the table of docs/faults.md."""
    rows = [measured(stage) for stage in ("sft", "grpo")]
    lines = table(["stage", "calls", "µs a call", "of the time of the steps"], rows)
    write_between(PAGE, "journal", lines)
    print("\n".join(lines))


def measured(stage: str) -> list[str]:
    """One stage of the tiny model, with a journal."""
    (cell,) = [replace(each, warmup=1) for each in chosen("cpu", quick=False, only=[f"{stage}-tiny"])]
    inputs = prepare(cell, ROOT / "build/journal")
    policy = Path(json.loads((inputs / "models.json").read_text("utf-8"))["policy"])
    (inputs / "scratch").mkdir(exist_ok=True)
    clock = Clock(cell.warmup, cell.steps)
    log = Timed(cell, clock, [] if cell.samples else tokens_of_steps(cell, inputs))
    log.keep(inputs / "journal")
    with contextlib.suppress(Finished):
        importlib.import_module(modules(cell)[0]).run(cell, inputs, policy, clock, log)
    clock.write(inputs / "result.json")
    seconds = json.loads((inputs / "result.json").read_text("utf-8"))["seconds"]
    return [stage, str(log.calls), f"{log.seconds / log.calls * 1e6:.0f}", f"{log.seconds / seconds:.2%}"]


if __name__ == "__main__":
    main()
