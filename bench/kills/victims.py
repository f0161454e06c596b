"""Processes of a run, and killing some of them with -9."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from bench.orchestration.watch import kind_of

STAGE = re.compile(r"-m tasks\.(\w+)")
KINDS = ("trainer", "dvc", "engine", "all")
"""A stage's process, the dvc above it, `preflow run` with Prefect's engine in it, or every process in the checkout."""


def living(place: Path) -> Iterator[psutil.Process]:
    """Every process whose working directory is the checkout or below it; servers of the project too."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(place) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def kill(kind: str, place: Path, engine: int) -> str:
    """Kill -9; the stage that was at work, "" where there was no such process just then."""
    there = list(living(place))
    stage = next((name for process in there if (name := _stage(process))), "between stages")
    hit = [process for process in there if kind == "all" or _is(process, kind, engine)]
    return stage if [process for process in hit if _killed(process)] else ""


def _is(process: psutil.Process, kind: str, engine: int) -> bool:
    if kind == "engine":
        return process.pid == engine
    return _kind(process) == {"trainer": "stage", "dvc": "dvc"}[kind]


def _kind(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return kind_of(" ".join(process.cmdline()))
    return ""


def _stage(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        line = " ".join(process.cmdline())
        if kind_of(line) == "stage" and (match := STAGE.search(line)):
            return match[1]
    return ""


def _killed(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        process.kill()
        return True
    return False


def of_server(process: psutil.Process) -> bool:
    """Whether it is the project's server, or below it: that may outlive a run."""
    with suppress(psutil.Error):
        return "server" in map(_kind, (process, *process.parents()))
    return False


def gone(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Whether all have ended within this time."""
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return not left
