"""What a stage has to say, written to disk first: metrics, tables, figures, files, progress.

A journal is a folder with `events.jsonl` (one JSON object a line, in the order it happened) and `files/`. Training
never waits for a tracking server: `tasks.tracking` replays journals into MLflow, live or later, exactly once.

Folders: `<home>/journal/<run>/<stage>-<attempt>/`, where `<home>` is `.preflow` of the project (or `PREFLOW_HOME`).
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tasks.redact import masked_value

_FIGURES = ("metrics", "progress")
"""Events of names of ours and numbers, which come with every step: there is no secret to look for."""


def home(root: Path) -> Path:
    """The project's private folder: journals, scratch, server state. Git ignores it."""
    return Path(os.environ.get("PREFLOW_HOME") or root / ".preflow").resolve()


def alive(pid: int, started: float) -> bool:
    """Is this very process still there? By start time too: process ids are used again."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 2.0  # start times move a little when the clock is set right
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Log:
    """Handed to every stage. Steps are optimiser steps (or RL updates); metric names are `stage/name`."""

    def __init__(self, folder: Path | None, stage: str = "", clock: Callable[[], float] = time.perf_counter) -> None:
        """`folder` None keeps nothing (tests, library use)."""
        self._clock, self._spent = clock, 0.0
        self._folder = folder
        self._stage = stage
        self._last_line = 0.0
        self._last_event = 0.0
        if folder is not None:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            # Where the locale is not UTF-8, paths hold the bytes that it cannot read as surrogates.
            self._events = (folder / "events.jsonl").open("a", encoding="utf-8", errors="surrogateescape")

    @classmethod
    def null(cls) -> Self:
        """A log that keeps nothing."""
        return cls(None)

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        """Scalars of one step, e.g. `{"sft/loss": 1.2}`."""
        self.event("metrics", step=step, metrics={name: float(value) for name, value in metrics.items()})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows to read side by side, e.g. sampled completions."""
        path = self._path(f"{name}.json")
        if path is not None:
            told = masked_value([dict(row) for row in rows])
            path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
            self.event("table", name=name, file=path.name)

    def figure(self, name: str, figure: Any) -> None:
        """A matplotlib figure, kept as PNG."""
        path = self._path(f"{name}.png")
        if path is not None:
            figure.savefig(path, dpi=120, bbox_inches="tight")
            self.event("file", folder="plots", file=path.name)

    def file(self, path: Path, folder: str = "") -> Path | None:
        """Any small file worth showing with the run (a report, a card); it is copied, to where is returned."""
        target = self._path(path.name)
        if target is not None:
            shutil.copyfile(path, target)
            self.event("file", folder=folder, file=target.name)
        return target

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Where the stage is; at most one event each half second and one terminal line each two seconds."""
        now = time.monotonic()
        if self._folder is None or (done < total and now - self._last_event < 0.5):
            return
        self._last_event = now
        self.event("progress", done=done, total=total, figures={name: float(x) for name, x in figures.items()})
        if now - self._last_line >= 2.0 or done == total:
            self._last_line = now
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"[{self._stage}] {done}/{total}  {shown}".rstrip(), file=sys.stderr, flush=True)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; whole lines only, so that a reader never sees half of one.

        The one that ends a stage says how long all before it took to write: training waits for nothing else of ours.
        """
        if self._folder is None:
            return
        began = self._clock()
        if kind == "end":
            fields["logging_seconds"] = round(self._spent, 6)
        told = fields if kind in _FIGURES else masked_value(fields)
        self._events.write(json.dumps({"event": kind, "time": time.time(), **told}, ensure_ascii=False) + "\n")
        self._events.flush()
        self._spent += self._clock() - began

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / "files" / name.replace("/", "_")


def new_folder(root: Path, run: str, stage: str) -> Path:
    """A fresh journal folder for one attempt at a stage."""
    parent = home(root) / "journal" / run
    parent.mkdir(parents=True, exist_ok=True)
    attempt = 1
    while True:
        folder = parent / f"{stage}-{attempt}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            attempt += 1
