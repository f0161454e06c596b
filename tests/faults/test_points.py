"""The fault injector itself: every point is there and is reached, and the product alone has none of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import points
from tests.faults.child import ended
from tests.faults.small_stage import GIVEN, REPO, make_root, typed_sft

COMMAND = [sys.executable, "-m", "tasks.sft", *GIVEN, "--out", "out"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: what a kill leaves is gone on with by the next one."""
    return make_root(tmp_path_factory.mktemp("points"), checkpoint_every=2)


@pytest.mark.parametrize("point", points.POINTS)
def test_every_point_is_reached(point: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1" if point.startswith("second_rank") else "0")
    assert ended(typed_sft(root), root / "errors", f"{point}:1:kill") == -signal.SIGKILL
    assert (root / "errors").read_text().splitlines()[-1] == f"fault: {point}, call 1: kill"


def test_what_there_is_no_point_for_is_refused() -> None:
    for fault in ("step.updat:1:kill", "step.update:1:kil"):
        with pytest.raises(ValueError, match=r"points are clock, step\.update, .*; faults are kill, "):
            points.arm(fault)


def typed(root: Path, fault: str, path: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PREFLOW_RUN": "test", points.VARIABLE: fault, "PYTHONPATH": path}
    return subprocess.run(COMMAND, cwd=root, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_program_has_them_by_the_tests_sitecustomize_alone(tmp_path: Path) -> None:
    """A point of a module that it imports later; of another stage; one that there is not; and the variable alone."""
    root, armed = make_root(tmp_path), os.pathsep.join([str(points.ON_PATH), str(REPO)])
    assert typed(root, "step.update:2:kill", armed).returncode == -signal.SIGKILL
    done = typed(root, "step.updat:2:kill,step.update:2:kill", armed)
    assert done.returncode == 0 and "'step.updat:2:kill': points are" in done.stderr
    assert typed(root, "rl/step.update:2:kill", armed).returncode == 0
    assert typed(root, "step.update:2:kill", str(REPO)).returncode == 0


def test_the_product_knows_nothing_of_them() -> None:
    modules = [path for package in ("flows", "tasks", "rlhf") for path in (REPO / package).rglob("*.py")]
    assert len(modules) > 200
    assert not [path for path in modules if points.VARIABLE in path.read_text("utf-8")]
