"""A pipeline of all thirteen stages in which each is killed with -9 once, and the same command typed again each time.

A stage that writes two checkpoints dies while the second is put into place, any other when its output is: that is where
the most is on the disk that could be taken for more than it is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.kills.checkout import SHORT
from flows import dvc
from tasks.config import read_yaml
from tasks.graph import load_graph
from tests.test_end_to_end import copied

pytestmark = pytest.mark.slow
KILLER = """
import os, signal
from pathlib import Path

stage = os.environ.get("DVC_STAGE", "").split(":")[-1]
done = Path(os.environ.get("KILLED", "/nowhere"), stage)
if stage and not done.exists():
    checkpoints = []

    def what(to):
        if to.name.startswith("step-"):
            checkpoints.append(to)
            return "a checkpoint" if len(checkpoints) == 2 else ""
        return "the output" if to.is_relative_to(Path.cwd() / "data") else ""

    def deadly(rename):
        def renamed(source, to, **options):
            if moved := what(Path(os.path.abspath(to))):
                done.write_text(moved)
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(source, to, **options)
        return renamed

    os.rename, os.replace = deadly(os.rename), deadly(os.replace)
"""
TWO_CHECKPOINTS = {"base", "sft", "reward_model", "rejection_sampling", "rl"}


def run(root: Path, killed: Path | None = None) -> tuple[int, dict[str, Any]]:
    """`preflow run --json`; stages that have left no word in `killed` are killed once."""
    own = {"KILLED": str(killed), "PYTHONPATH": str(killed)} if killed else {}
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


def stop(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=root, check=False, capture_output=True)


@pytest.mark.faults(
    5,
    injected="kill -9 of each of thirteen stages once, at its second checkpoint or with its output about to move",
    happens="the same command goes on each time; every output and dvc.lock are those of an unbroken run",
)
def test_it_ends_in_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    whole, broken = (copied(tmp_path / name, SHORT) for name in ("whole", "broken"))
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "sitecustomize.py").write_text(KILLER)
    stages = set(load_graph(broken).stages)
    try:
        code, report = run(whole)
        assert code == 0, report
        dead: set[str] = set()
        while dead != stages:
            code, report = run(broken, killed)
            now = {path.name for path in killed.iterdir() if path.name in stages}
            assert now > dead and code != 0, (report, dead)
            told = {one["name"]: one["reason"] for one in report["stages"] if one["state"] == "failed"}
            assert set(told) == now - dead
            assert all(reason.startswith("killed by signal 9") for reason in told.values()), told
            dead = now
        code, report = run(broken, killed)
        assert code == 0, report
    finally:
        for root in (whole, broken):
            stop(root)
    where = {name: (killed / name).read_text() for name in stages}
    assert {name for name, place in where.items() if place == "a checkpoint"} == TWO_CHECKPOINTS, where
    lock = (broken / "dvc.lock").read_bytes()
    assert lock == (whole / "dvc.lock").read_bytes()
    assert set(read_yaml(broken / "dvc.lock")["stages"]) == stages
    assert dvc.status(broken) == {}
