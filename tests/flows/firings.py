"""Schedules of tests/flows/small.py that fire on a real Prefect server, and what became of their firings."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from flows import server
from flows.prefect_api import ask
from tests.flows.toy import REPO

T = TypeVar("T")
PATIENCE = 900
"""Seconds after which a test gives up: many times what a firing takes on an idle machine."""


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *words]


def environ() -> dict[str, str]:
    """That of a user who has configured no Prefect server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_") and key != "PREFLOW_HOME"}
    return kept | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def preflow(root: Path, *words: str) -> dict[str, Any]:
    """A command with --json, which has to succeed."""
    argv = program(*words, "--json")
    done = subprocess.run(argv, cwd=root, env=environ(), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def served(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`preflow schedule serve` meanwhile, and no server of the project afterwards."""
    with (root.parent / "serve.log").open("ab") as log:
        serving = subprocess.Popen(program("schedule", "serve"), cwd=root, env=environ(), stdout=log, stderr=log)
    try:
        yield serving
    finally:
        serving.terminate()
        serving.wait(120)
        server.stop(root)


def firings(root: Path, state: str = "") -> list[dict[str, Any]]:
    """Flow runs that began, in the order of their slots, as Prefect's API tells them."""
    here = server.running(root)
    with suppress(OSError, ValueError):
        found = ask(f"{here.url}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"}) if here else []
        return [one for one in found if one["state_name"] == state or (not state and one["start_time"])]
    return []  # not up yet, or busy


def until(what: str, attempt: Callable[[], T], patience: int = PATIENCE) -> T:
    """The first answer that holds."""
    deadline = time.monotonic() + patience
    while not (found := attempt()):
        assert time.monotonic() < deadline, f"{patience} s and no {what}"
        time.sleep(0.5)
    return found


def ended(root: Path, state: str, number: int = 1) -> dict[str, Any]:
    """Waits for the `number`-th firing that ended so, and tells it."""
    return until(f"{state} no. {number}", lambda: firings(root, state)[number - 1 : number])[0]


def seconds(firing: dict[str, Any]) -> float:
    """From the start of the flow to its end."""
    began, ended_at = (datetime.fromisoformat(firing[key]) for key in ("start_time", "end_time"))
    return (ended_at - began).total_seconds()


def remembered(root: Path, name: str) -> dict[str, Any]:
    """What `flows.retrain.due` keeps of a schedule."""
    found: dict[str, Any] = json.loads((root / ".preflow" / "retrain" / f"{name}.json").read_text())
    return found


def executed(root: Path, run: str) -> set[str]:
    """Stages that a run executed, rather than took from the cache."""
    logs = (root / ".preflow" / "journal" / run).glob("*.log")
    return {log.stem for log in logs if f"Running stage '{log.stem}'" in log.read_text()}
