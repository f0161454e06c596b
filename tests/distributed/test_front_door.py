"""`python -m tasks.sft` with `training.nproc=2`: it starts two processes, and what it leaves is as of one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from flows.runner import Place, run_stage
from tests.faults import points
from tests.faults.child import ended
from tests.faults.small_stage import GIVEN, REPO, events, make_root, typed_sft
from tests.tasks import tiny

COMMAND = [sys.executable, "-m", "tasks.sft", *GIVEN, "--out", "out"]
LONG = 100
"""Epochs of two steps: a kill that comes after the first checkpoint must come before the end."""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def project(root: Path, nproc: int, training: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> Path:
    """Four micro-batches a step; the checkpoints are thirty steps apart."""
    root.mkdir()
    make_root(root, max_batch_tokens=12, **{"checkpoint_every": 30} | settings)
    params = json.loads((root / "params.yaml").read_text()) | {"training": {"nproc": nproc, **training}}
    (root / "params.yaml").write_text(json.dumps(params))
    return root


def start(root: Path, command: list[str] = COMMAND) -> subprocess.Popen[str]:
    told = {"PREFLOW_RUN": "test", "PYTHONPATH": str(REPO), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=root, env=os.environ | told, text=True, stderr=subprocess.PIPE)


def finish(root: Path, command: list[str] = COMMAND) -> dict[str, bytes]:
    """What the stage wrote, as it ended well."""
    running = start(root, command)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    return tiny.contents(root / "out")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What that stage leaves where nothing happens."""
    return finish(project(tmp_path_factory.mktemp("unbroken") / "project", 2, epochs=LONG))


@pytest.fixture
def long_project(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A stage of two hundred steps, of which some are saved."""
    root = project(tmp_path / "broken", 2, epochs=LONG)
    running = start(root)
    while not list(root.glob(".preflow/scratch/*/checkpoints/step-*")):
        assert running.poll() is None, running.communicate()
        threading.Event().wait(0.02)
    yield root, running
    running.kill()


@pytest.mark.parametrize(
    "training",
    [{}, *(pytest.param({"shard": True, "method": one}, marks=pytest.mark.slow) for one in ("full", "lora"))],
    ids=["copies", "shard", "shard-lora"],
)
def test_it_leaves_what_one_process_leaves(training: dict[str, Any], tmp_path: Path) -> None:
    one, two = (project(tmp_path / str(nproc), nproc, training, epochs=6) for nproc in (1, 2))
    assert ended(typed_sft(one)) == 0
    found, expected = finish(two), tiny.contents(one / "out")
    assert found.keys() == expected.keys()
    files = [name for name in expected if name.endswith(".safetensors")]
    weights = [[tensor for name in files for tensor in load_file(root / "out" / name).values()] for root in (one, two)]
    assert max((left - right).abs().max().item() for left, right in zip(*weights, strict=True)) < 1e-5
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert not list((two / ".preflow/scratch").glob("*/*"))
    assert len(list((two / ".preflow/journal/test").iterdir())) == 1
    kinds = [[entry["event"] for entry in events(root) if entry["event"] != "progress"] for root in (one, two)]
    assert kinds[0] == kinds[1]
    (last,), (other,) = ([entry for entry in events(root) if entry["event"] == "end"] for root in (one, two))
    assert last["status"] == other["status"] == "FINISHED"
    trained = other["cost"]["tokens_trained"] / last["cost"]["tokens_trained"]
    assert trained == 1 or (training and 1 < trained < 1.5)  # passes that do not count are paid for as well


@pytest.mark.slow
@pytest.mark.faults(
    51,
    injected="kill -9 of a process of a stage started with training.nproc=2",
    happens="the stage ends with 1; the same command goes on to the same bytes",
)
@pytest.mark.parametrize("killed", [0, 1])
def test_one_process_is_killed(
    long_project: tuple[Path, subprocess.Popen[str]], killed: int, unbroken: dict[str, bytes]
) -> None:
    root, running = long_project
    (process,) = (one for one in psutil.Process(running.pid).children() if one.environ().get("RANK") == str(killed))
    process.kill()
    begun = time.monotonic()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and time.monotonic() - begun < 40
    assert f"process {killed} of 2 was ended by SIGKILL" in said
    assert not (root / "out").exists() and psutil.Process().children() == []
    if killed:
        assert "another of the 2 processes of this training has ended" in events(root)[-1]["reason"]
    assert finish(root) == unbroken


@pytest.mark.slow
def test_asked_to_stop_both_save_the_same_step(
    long_project: tuple[Path, subprocess.Popen[str]], unbroken: dict[str, bytes]
) -> None:
    root, running = long_project
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 85 and "stopped (SIGTERM): step " in said
    assert (events(root)[-1]["status"], events(root)[-1]["exit_code"]) == ("KILLED", 85)
    assert finish(root) == unbroken


@pytest.mark.slow
def test_torchrun_goes_on_with_one(long_project: tuple[Path, subprocess.Popen[str]]) -> None:
    """It says how many there are, whatever the setting: the result has the key of two, and its journal says so."""
    root, running = long_project
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    finish(root, [sys.executable, *TORCHRUN, "1", *COMMAND[1:]])
    logged = [entry["metrics"] for entry in events(root, 2) if entry["event"] == "metrics"]
    assert {"sft/resharded": 1.0} in logged


@pytest.mark.slow
def test_a_stage_that_runs_is_not_run_twice(tmp_path: Path) -> None:
    """The second start's first process says so; its other one, which waits for the first, ends soon."""
    root = project(tmp_path / "project", 2, epochs=2)
    environment = os.environ | {"RANK": "0", "WORLD_SIZE": "2", "PREFLOW_RENDEZVOUS": f"file://{tmp_path}/group"}
    alone = subprocess.Popen(COMMAND, cwd=root, env=environment | {"PREFLOW_RUN": "other", "PYTHONPATH": str(REPO)})
    while not list(root.glob(".preflow/scratch/*.lock")):
        assert alone.poll() is None
        threading.Event().wait(0.02)
    second = start(root)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 75 and f"is in use by stage sft, process {alone.pid} on " in said
    begun = time.monotonic()
    alone.terminate()
    assert alone.wait() == 85 and time.monotonic() - begun < 20


GRAPH = f"""stages:
  sft:
    cmd: python -m tasks.sft {" ".join(GIVEN)} --out out
    deps: [demonstrations, base]
    params: [sft, generation, training, seed]
    outs: [out]
"""


@pytest.mark.slow
@pytest.mark.faults(
    52, injected="SIGSTOP of one process of a stage that a run has started with training.nproc=2",
    happens="both say where their threads stand, the run begins the stage again, and it ends in the unbroken bytes",
)  # fmt: skip
def test_a_stage_of_which_one_process_hangs_is_begun_again_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps, of which the third is saved: in its second attempt the second process makes no fifth update."""
    unbroken, root = (project(tmp_path / name, 2, epochs=3, checkpoint_every=3) for name in ("unbroken", "hangs"))
    expected = finish(unbroken)
    (root / "dvc.yaml").write_text(GRAPH)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=root, check=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(points.ON_PATH), str(REPO)]))
    monkeypatch.setenv(points.VARIABLE, "second_rank.update:5:stop")
    monkeypatch.setenv("PREFLOW_RANK_TIMEOUT", "15")
    lines: list[str] = []
    result = run_stage(Place(root, root, "test"), "sft", on_line=lines.append, cancel=threading.Event())
    assert result.state == "ran", lines
    assert next(line for line in lines if "begun again" in line).endswith("begun again, 1 of 3 times")
    assert sum("begun again" in line for line in lines) == 1
    stacks = "\n".join(lines).split("(most recent call first)")[1:]
    assert any("in _company" in stack for stack in stacks), "of the one that waited"
    assert any("in biting" in stack and "in _company" not in stack for stack in stacks), "of the one that was stopped"
    assert tiny.contents(root / "out") == expected
