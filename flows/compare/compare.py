"""`preflow compare`: a grid of algorithms, settings and seeds; what is shared runs once, what is done never again.

Every cell is an ordinary run of the code and data of now, so its ref does it again. The champion is none in all of
them: a result never depends on who reigned when it was made.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows import guards, launch, profiles, worktrees
from flows.compare import store, table
from flows.compare.cell import job
from flows.compare.grid import Asked, Cell, grid
from flows.compare.outlook import refuse_idle, timed_by_runs
from flows.compare.start import begin_with, forget_snapshots, free_name, heeding
from flows.compare.work import Job, begin, doing, seconds_left, work
from flows.request import Start
from flows.runner import SIDE_BY_SIDE
from tasks import tracking
from tasks.config import ConfigError
from tasks.tracking import comparisons

TELL_EVERY = 30.0  # seconds between two lines on what runs


@dataclass(frozen=True)
class Plan:
    """A comparison before it begins."""

    asked: Asked
    cells: list[Cell]
    key: str
    """Digest of name and cells: the same comparison has one record."""
    name: str
    todo: list[Cell]
    by_runs: Mapping[str, float]
    """Seconds by kind of stage, as plain runs took them."""
    seconds: float | None
    """Estimate for `todo`; None where nothing like it was measured yet."""

    def folder(self, root: Path) -> Path:
        """Where its report goes."""
        return root / "reports" / "compare" / self.name


def plan(root: Path, asked: Asked, say: Callable[[str], None]) -> Plan:
    """What a comparison would do.

    Raises:
        ConfigError: as `flows.compare.grid.grid`, a name that is none for a folder, or values that change no policy.
    """
    if asked.name and not re.fullmatch(r"\w[\w.-]*", asked.name):
        raise ConfigError(f"--name {asked.name}: letters, digits, `_`, `-` and `.` only, as a folder is named so")
    cells = grid(root, asked, say)
    refuse_idle(root, asked, cells, say)
    parts = json.dumps([asked.name, sorted(cell.key for cell in cells)])
    key = hashlib.sha256(parts.encode()).hexdigest()[:12]
    name = f"{'-'.join(dict.fromkeys(cell.algorithm for cell in cells))[:60]}-{key[:6]}"
    if asked.name:
        name = free_name(root, asked.name, cells)
        if name != asked.name:
            say(f"reports/compare/{asked.name} is of another grid; the report of this one is {name}")
    todo = [cell for cell in cells if not store.has_result(root, cell.key)]
    by_runs = timed_by_runs(root, asked, cells)
    return Plan(asked, cells, key, name, todo, by_runs, seconds_left(root, todo, by_runs))


def run(root: Path, planned: Plan, cancel: threading.Event, say: Callable[[str], None]) -> dict[str, Any]:
    """Run what is to do and report; the same plan goes on where an earlier call stopped.

    Returns:
        What compare.json holds. Cells that failed are in it, each with its reason.

    Raises:
        PreflowError: before the first cell began; Preempted: `cancel` was set.
    """
    failed: dict[str, str] = {}
    opener: threading.Thread | None = None
    if planned.todo:
        with guards.held(store.folder(root) / "compare.lock", f"compare {planned.name}"):
            # Another call may have run some of them since the plan was made.
            todo = [cell for cell in planned.todo if not store.has_result(root, cell.key)]
            guards.check_disk(root)
            try:
                failed, opener = _work(root, replace(planned, todo=todo), cancel, say)
            finally:
                worktrees.sweep(root)
                forget_snapshots(root)
    elif not comparisons.has_begun(root, planned.key):  # other comparisons have run all of its cells
        opener = _announce(root, planned, "")
    return heeding(cancel, lambda: _finish(root, planned, failed, opener))


def _finish(root: Path, planned: Plan, failed: Mapping[str, str], opener: threading.Thread | None) -> dict[str, Any]:
    """The report, on disk and in MLflow."""
    found = {cell.key: store.result(root, cell.key) for cell in planned.cells}
    results = {key: result for key, result in found.items() if result is not None}
    summed = table.summary(planned.asked, planned.cells, results, failed) | {"name": planned.name}
    _write(planned.folder(root), summed, planned.cells, results)
    if opener:
        opener.join()
    tracking.finish_comparison(root, planned.key, _told(root, planned, summed, results))
    return summed


def _work(
    root: Path, planned: Plan, cancel: threading.Event, say: Callable[[str], None]
) -> tuple[dict[str, str], threading.Thread]:
    """Why cells failed, by key; and the thread that opens the comparison in MLflow."""
    common = heeding(cancel, lambda: begin_with(root, planned.todo, planned.asked.profile, planned.name))
    taken = common.taken
    if taken.left_out:
        say(f"not kept with the runs, as they look like secrets or git ignores them: {', '.join(taken.left_out)}")
    opener = _announce(root, planned, taken.commit)
    one_seed = len({cell.seed for cell in planned.todo}) == 1
    logs = comparisons.place(root, planned.key) / "cells"
    progress = _Progress(root, planned, say)

    def start(cell: Cell) -> Job:
        run, resolved = launch.new_name(), common.resolved[cell.key]
        todo = tuple(name for name, signature in cell.signatures.items() if not store.has_entry(root, signature))
        # The first one goes alone as far as all others share it, and then has a chain of stages of its own.
        alone = one_seed and cell is planned.todo[0]
        begins = Start(
            run=run,
            name=cell.name,
            label=cell.label,
            commit=taken.commit,
            graph=cell.graph,
            lock=store.lock_of(root, cell.signatures),
            todo=todo,
            params=resolved.text,
            own_sources=resolved.own_sources,
            cache=str(common.cache),
            slots=SIDE_BY_SIDE if alone else 1,
            comparison=planned.key,
        )
        return begin(root, cell, run, logs, job(cell, begins, planned.asked.profile, planned.asked.command))

    failed = work(
        root, planned.todo, start, cancel, on_start=progress.start, on_end=progress.end, on_tick=progress.tick
    )
    return failed, opener


def _announce(root: Path, planned: Plan, commit: str) -> threading.Thread:
    """Open the parent run, so that cells are shown below it while they run; a slow MLflow does not hold them up."""
    asked = planned.asked
    params = {
        "algorithms": ",".join(asked.algorithms),
        "seeds": ",".join(map(str, asked.seeds)),
        "settings": " ".join(asked.settings),
        "lr": ",".join(asked.rates),
        "profile": asked.profile,
    }
    about = {
        "name": planned.name,
        "command": asked.command,
        "commit": commit,
        "registry": profiles.resolve(root, asked.profile).registry,
        "params": {name: value for name, value in params.items() if value},
    }
    opener = threading.Thread(target=tracking.begin_comparison, args=(root, planned.key, about), daemon=True)
    opener.start()
    return opener


class _Progress:
    """Lines for a person: how many cells are done, what runs, how long it will take."""

    def __init__(self, root: Path, planned: Plan, say: Callable[[str], None]) -> None:
        self.root, self.say, self.total, self.by_runs = root, say, len(planned.cells), planned.by_runs
        self.done = self.total - len(planned.todo)
        self.told = time.monotonic()
        say(f"{self.total} cells, {self.done} done; report: {planned.folder(root)}{_about(planned.seconds)}")

    def start(self, job: Job) -> None:
        self.say(f"[{self.done}/{self.total}] {job.cell.name}: starts (log: {job.path.with_suffix('.log')})")

    def end(self, cell: Cell, reason: str, seconds: float) -> None:
        self.done += 1
        self.say(f"[{self.done}/{self.total}] {cell.name}: {reason or f'done in {seconds:.0f} s'}")

    def tick(self, running: Sequence[Job], waiting: Sequence[Cell]) -> None:
        if time.monotonic() - self.told < TELL_EVERY or not running:
            return
        self.told = time.monotonic()
        words = "; ".join(f"{job.cell.name} ({doing(self.root, job)})" for job in running)
        left = seconds_left(self.root, [*(job.cell for job in running), *waiting], self.by_runs)
        self.say(f"[{self.done}/{self.total}] {words}{_about(left)}")


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f"; about {max(1, round(seconds / 60))} min left"


def _write(folder: Path, summed: Mapping[str, Any], cells: Sequence[Cell], results: table.Results) -> None:
    """table.md, compare.json and the pictures; nothing where they are there already."""
    from flows.compare import figures

    text = json.dumps(summed, ensure_ascii=False, indent=1) + "\n"
    path = folder / "compare.json"
    whole = all((folder / name).exists() for name in ("table.md", *figures.FILES))
    if whole and path.exists() and path.read_text(encoding="utf-8") == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table.markdown(summed), encoding="utf-8")
    if results:
        figures.draw(folder, summed, cells, results)
    path.write_text(text, encoding="utf-8")


def _told(root: Path, planned: Plan, summed: Mapping[str, Any], results: table.Results) -> dict[str, Any]:
    """What MLflow hears of the whole."""
    from flows.compare.figures import FILES

    metrics = {f"{summed['metric']}/{row['name']}": (row["score"] or {}).get("mean") for row in summed["rows"]}
    metrics |= {f"gain_over_sft/{row['name']}": (row["gain"] or {}).get("mean") for row in summed["rows"]}
    cells = []
    for cell, line in zip(planned.cells, summed["cells"], strict=True):
        if cell.key in results:
            numbers = {name: value for name, value in line.items() if isinstance(value, float)}
            kept = results[cell.key]["cell"]
            cells.append({"key": cell.key, "name": cell.name, "run": kept["run"], "metrics": numbers})
    folder = planned.folder(root)
    return {
        "status": "FINISHED" if len(results) == len(planned.cells) else "FAILED",
        "note": table.markdown(summed),
        "metrics": {_metric(name): value for name, value in metrics.items() if value is not None},
        "table": [{name: value for name, value in line.items() if name != "settings"} for line in summed["cells"]],
        "files": [str(folder / name) for name in ("table.md", "compare.json", *FILES)],
        "cells": cells,
    }


def _metric(name: str) -> str:
    """MLflow takes letters, digits, spaces and `_-./:` in a name."""
    return re.sub(r"[^\w\-./: ]", " ", name)
