"""What our stages are handed in a cell: rows, settings, and a log that tells the time."""

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.speed.cell import Cell
from bench.speed.clock import Clock, Finished, versions
from bench.speed.machine import measured
from bench.speed.rows import tokens_of_steps
from rlhf.lanes import one_lane
from tasks.config.training import Training
from tasks.journal import Log

SEED = 0
LR = 1e-5
"""So small that no model goes anywhere: what is compared is work."""
NEVER = 10**6
"""Checkpoints and looks: a stage makes them between steps, TRL is told to make none."""


class Watch(Log):
    """The stage's log: the first step's figures, the tokens sampled, and the tick after every step."""

    def __init__(self, cell: Cell, clock: Clock, trained: list[int]) -> None:
        super().__init__(None)
        self._cell, self._ticks, self._trained = cell, clock, trained

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        figures = {name.partition("/")[2]: value for name, value in metrics.items()}
        if "loss" not in figures:  # what a stage measures beside its steps
            return
        if step == 0:
            self._ticks.first |= first_figures(figures)
        self._ticks.tokens += int(figures["tokens"]) if "tokens" in figures else 0

    def progress(self, done: int, total: int, **figures: float) -> None:
        if total != self._cell.warmup + self._cell.steps:
            return
        if self._trained:
            self._ticks.tokens += self._trained[done - 1]
        if self._ticks.tick():
            raise Finished


def first_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """What TRL has too."""
    found = {name: figures[name] for name in ("loss", "grad_norm", "kl", "tokens") if name in figures}
    if "length" in figures:
        found["completions"] = figures["tokens"] / figures["length"]
    return found


def training(cell: Cell) -> Training:
    """An adapter has rank 16 on all linear layers but the LM head, on both sides."""
    return Training.model_validate({"method": "lora" if cell.lora else "full", "dtype": cell.dtype})


Run = Callable[[Cell, Path, Path, Clock, Log], Any]
"""(cell, inputs, policy, clock, log): a stage up to the end of its timed steps."""


def main(run: Run) -> None:
    """python -m bench.speed.ours.STAGE INPUTS RESULT"""
    # Stages import these where they need them; here they count as imports, as they do on TRL's side.
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("transformers.models.auto.modeling_auto")
    inputs, result = Path(sys.argv[1]), Path(sys.argv[2])
    cell = Cell.read(inputs)
    clock = Clock(cell.warmup, cell.steps, cell.device)
    policy = Path(json.loads((inputs / "models.json").read_text("utf-8"))["policy"])
    watch = Watch(cell, clock, [] if cell.samples else tokens_of_steps(cell, inputs))
    (inputs / "scratch").mkdir(exist_ok=True)
    with contextlib.suppress(Finished), one_lane():  # as TRL has one thread
        run(cell, inputs, policy, clock, watch)
    clock.write(result, machine=measured(cell), versions=versions("torch", "transformers"))
