"""Runs the cells of a comparison, some side by side, so that no stage is run twice.

A cell starts when no running cell is about to make a stage that it needs too. So the first one goes alone through what
all share, the first of each seed makes what its seed shares, and all others begin with what is there.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from flows import dvc
from flows.compare import store
from flows.compare.grid import Cell
from flows.processes import SAVING, end_group, spawn
from flows.runner import SIDE_BY_SIDE, killed_by
from rlhf.errors import Busy, DependencyDown, Preempted
from tasks.journal import home

_PASSING = {Busy.exit_code, DependencyDown.exit_code, Preempted.exit_code}  # says nothing of the stage itself
_PATIENCE = SAVING + 10  # seconds that a cell has to end in, its stages and its record included


@dataclass(frozen=True)
class Job:
    """A cell on its way."""

    cell: Cell
    run: str
    process: Popen[bytes]
    path: Path
    """`<path>.json` is what it was asked, `.report.json` what came of it, `.log` what it said."""
    began: float


def begin(root: Path, cell: Cell, run: str, folder: Path, asked: object) -> Job:
    """Start a cell as a process that dies with the calling thread."""
    path = folder / f"{run}.json"
    store.write(path, asked)
    with path.with_suffix(".log").open("wb") as log:
        argv = [sys.executable, "-m", "flows.compare.cell", str(root), str(path)]
        process = spawn(argv, cwd=root, env=dvc.environ(), output=log)
    return Job(cell, run, process, path, time.monotonic())


def work(
    root: Path,
    cells: Sequence[Cell],
    start: Callable[[Cell], Job],
    cancel: threading.Event,
    *,
    on_start: Callable[[Job], None],
    on_end: Callable[[Cell, str, float], None],
    on_tick: Callable[[list[Job], list[Cell]], None],
) -> dict[str, str]:
    """Run all cells; returns why, by key, of those that failed. One that fails stops no other.

    Args:
        on_end: gets a cell, why it failed ("" for one that did not) and its seconds.
        on_tick: gets, several times a second, what runs and what waits.

    Raises:
        Preempted: `cancel` was set; all processes have ended.
    """
    waiting, running = list(cells), list[Job]()
    failed: dict[str, str] = {}
    broken: dict[str, str] = {}
    try:
        while waiting or running:
            if cancel.is_set():
                raise Preempted("stopped; the same command goes on from here")
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                reason = _reason(root, job, broken)
                if reason:
                    failed[job.cell.key] = reason
                on_end(job.cell, reason, time.monotonic() - job.began)
            for cell in [cell for cell in waiting if broken.keys() & set(cell.signatures.values())]:
                waiting.remove(cell)
                failed[cell.key] = next(broken[one] for one in cell.signatures.values() if one in broken)
                on_end(cell, failed[cell.key], 0.0)
            while len(running) < SIDE_BY_SIDE and (ready := _next(root, waiting, running)):
                waiting.remove(ready)
                running.append(start(ready))
                on_start(running[-1])
            on_tick(running, waiting)
            cancel.wait(0.2)
    finally:
        _end(running)
    return failed


def pending(root: Path, cells: Iterable[Cell]) -> dict[str, str]:
    """Stages that these cells have still to make: kind by signature."""
    return {
        signature: store.kind(cell, name)
        for cell in cells
        for name, signature in cell.signatures.items()
        if not store.has_entry(root, signature)
    }


def seconds_left(root: Path, cells: Sequence[Cell], by_runs: Mapping[str, float]) -> float | None:
    """Estimate for these cells from what earlier ones took, else plain runs (`flows.compare.outlook.timed_by_runs`).

    None where some kind of stage was never measured.
    """
    known = {**by_runs, **store.seconds_by_kind(root)}
    kinds = pending(root, cells).values()
    if not set(kinds) <= known.keys():
        return None
    side_by_side = min(SIDE_BY_SIDE, max(1, len(cells)))
    return (sum(known[kind] for kind in kinds) + known.get("", 0.0) * len(cells)) / side_by_side


def doing(root: Path, job: Job) -> str:
    """The stages that a cell is at, with how far they are: `rl 23/50`."""
    folder = home(root) / "journal" / job.run
    words = []
    for name, signature in job.cell.signatures.items():
        if (folder / f"{name}.log").exists() and not store.has_entry(root, signature):
            words.append(" ".join(filter(None, [name, _progress(folder, name)])))
    return ", ".join(words) or "getting ready"


def _next(root: Path, waiting: Sequence[Cell], running: Sequence[Job]) -> Cell | None:
    taken = pending(root, [job.cell for job in running]).keys()
    return next((cell for cell in waiting if not taken & set(cell.signatures.values())), None)


def _reason(root: Path, job: Job, broken: dict[str, str]) -> str:
    """Why a cell failed, "" where it did not; a stage that failed for good is put into `broken` by its signature."""
    if store.has_result(root, job.cell.key):
        return ""
    if (job.process.returncode or 0) < 0:
        return killed_by(-job.process.returncode)
    path = job.path.with_suffix(".report.json")
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": []}
    for stage in report["stages"]:
        if stage["state"] in ("failed", "stopped"):
            reason = f"{stage['name']}: {stage['reason']}"
            if stage["exit_code"] not in _PASSING:
                broken[job.cell.signatures[stage["name"]]] = reason
            return reason
    said = job.path.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else f"its process ended with {job.process.returncode}"


def _progress(folder: Path, stage: str) -> str:
    """`23/50`, from the end of the newest journal of a stage."""
    found = [path for path in folder.glob(f"{stage}-*/events.jsonl") if path.parent.name[len(stage) + 1 :].isdigit()]
    if not found:
        return ""
    with max(found, key=lambda path: path.stat().st_mtime).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 65536))
        lines = [line for line in file.read().splitlines() if b'"progress"' in line and line.endswith(b"}")]
    try:
        event = json.loads(lines[-1])
        return f"{event['done']}/{event['total']}"
    except (IndexError, ValueError, KeyError):
        return ""


def _end(running: Sequence[Job]) -> None:
    """Side by side, as each may take its time."""
    threads = [threading.Thread(target=end_group, args=(job.process, _PATIENCE)) for job in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
