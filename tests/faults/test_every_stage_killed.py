"""A pipeline of all thirteen stages in which each is killed with -9 once, and the same command typed again each time.

A stage that writes two checkpoints dies while the second is put into place, any other when its output is: that is where
the most is on the disk that could be taken for more than it is.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bench.kills.checkout import SHORT
from flows import dvc
from tasks.config import read_yaml
from tasks.graph import load_graph
from tests.faults import points
from tests.test_end_to_end import copied

pytestmark = pytest.mark.slow
TWO_CHECKPOINTS = {"base", "sft", "reward_model", "rejection_sampling", "rl"}


def run(root: Path, armed: Iterable[str] = ()) -> tuple[int, dict[str, Any]]:
    """`preflow run --json`; `armed` are stages that are to die in it."""
    faults = [f"{stage}/{point}:kill" for stage in armed for point in ("checkpoint.rename:2", "output.rename:1")]
    own = {points.VARIABLE: ",".join(faults), "PYTHONPATH": str(points.ON_PATH)} if faults else {}
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PREFLOW", "PREFECT_API"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--no-promote", "--json"],
        cwd=root,
        env=environ | {"OMP_NUM_THREADS": "1"} | own,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout)


def died_at(root: Path) -> dict[str, str]:
    """The point at which each stage was killed, as it said."""
    said = ((path.stem, path.read_text()) for path in root.glob(".preflow/journal/*/*.log"))
    return {stage: found[1] for stage, text in said if (found := re.search(r"^fault: (\S+), call", text, re.MULTILINE))}


def stop(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=root, check=False, capture_output=True)


@pytest.mark.faults(
    5,
    injected="kill -9 of each of thirteen stages once, at its second checkpoint or with its output about to move",
    happens="the same command goes on each time; every output and dvc.lock are those of an unbroken run",
)
def test_it_ends_in_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    whole, broken = (copied(tmp_path / name, SHORT) for name in ("whole", "broken"))
    stages = set(load_graph(broken).stages)
    try:
        code, report = run(whole)
        assert code == 0, report
        dead: set[str] = set()
        while dead != stages:
            code, report = run(broken, stages - dead)
            told = {one["name"]: one["reason"] for one in report["stages"] if one["state"] == "failed"}
            assert told and code != 0 and not dead & set(told), (report, dead)
            assert all(reason.startswith("killed by signal 9") for reason in told.values()), told
            dead |= set(told)
        code, report = run(broken)
        assert code == 0, report
    finally:
        for root in (whole, broken):
            stop(root)
    where = died_at(broken)
    assert where.keys() == stages
    assert {name for name, point in where.items() if point == "checkpoint.rename"} == TWO_CHECKPOINTS, where
    lock = (broken / "dvc.lock").read_bytes()
    assert lock == (whole / "dvc.lock").read_bytes()
    assert set(read_yaml(broken / "dvc.lock")["stages"]) == stages
    assert dvc.status(broken) == {}
