"""Pipelines beside an MLflow server that is dead, slow, or dies: the same weights, and in the end the same record."""

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.kills.checkout import SHORT
from flows.processes import end_group
from tests.faults.middleman import Middleman
from tests.ports import free_ports
from tests.test_end_to_end import copied, typed

pytestmark = pytest.mark.slow
MEASURED = ("seconds", "system/", "time/", "speed/", "cost/", "_per_second", "peak", "mfu")
"""Parts of names of what a clock or a meter says: no two runs agree on that."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server with a database of its own."""
    folder = tmp_path_factory.mktemp("server")
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    log = (folder / "log").open("w")
    with subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True) as process:
        while not answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            threading.Event().wait(0.2)
        yield port
        end_group(process)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("mlflow") / "project", SHORT)


def preflow(root: Path, port: int, *arguments: str) -> str:
    """A command against the server at this port; what it said on stderr."""
    done = typed(root, *arguments, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def recorded(root: Path, port: int) -> dict[str, Any]:
    """What MLflow has of the only run of `root`, but for what was measured: by stage, every point of every metric.

    Fails where it has a run twice.
    """
    (run,) = [path.name for path in (root / ".preflow/journal").iterdir() if path.is_dir()]
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`preflow.run` = '{run}'", max_results=200)
    stages: dict[str, Any] = {}
    for one in found:
        assert one.info.run_name not in stages, f"{one.info.run_name} is there twice"
        points = {
            name: [(point.step, point.value) for point in client.get_metric_history(one.info.run_id, name)]
            for name in one.data.metrics
            if not any(part in name for part in MEASURED)
        }
        parent = "mlflow.parentRunId" not in one.data.tags
        artifacts = sorted(artifact.path for artifact in client.list_artifacts(one.info.run_id))
        stages["the run" if parent else one.info.run_name] = {
            "status": one.info.status, "metrics": points, "params": one.data.params, "artifacts": artifacts,
        }  # fmt: skip
    return stages


@pytest.fixture(scope="module")
def unbroken(checkout: Path, server: int) -> dict[str, Any]:
    """The lock and the record of a run whose MLflow is well."""
    root = project(checkout, "unbroken")
    preflow(root, server, "run", "--no-promote")
    preflow(root, server, "stop")
    return {"lock": (root / "dvc.lock").read_bytes(), "record": recorded(root, server)}


def project(checkout: Path, name: str) -> Path:
    root = checkout.parent / name
    subprocess.run(["git", "clone", "-q", str(checkout), str(root)], check=True)
    return root


@pytest.fixture
def middleman(server: int) -> Iterator[Middleman]:
    made = Middleman(server)
    yield made
    made.close()


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("dead", marks=pytest.mark.faults(
            28, injected="MLflow refuses every connection while a pipeline of all stages runs",
            happens="same dvc.lock; the next command tells it all: same points, no run twice",
        )),
        pytest.param("dies", marks=pytest.mark.faults(
            28, injected="MLflow's server dies when half of the stages are done, and is back after the run",
            happens="same dvc.lock; the next command tells the rest: same points, no run twice",
        )),
        pytest.param("slow", marks=pytest.mark.faults(
            29, injected="MLflow answers each request of a pipeline of all stages after ten seconds",
            happens="same dvc.lock; the next command tells the rest: same points, no run twice",
        )),
    ],
)  # fmt: skip
def test_weights_and_record_are_those_of_a_run_whose_mlflow_was_well(
    trouble: str, checkout: Path, server: int, unbroken: dict[str, Any], middleman: Middleman
) -> None:
    root = project(checkout, trouble)
    if trouble == "dead":
        middleman.dead = True
    if trouble == "slow":
        middleman.before = lambda: time.sleep(10.0)  # the fault itself, and not a wait for something
    if trouble == "dies":
        half = root / "data/06_preferences"

        def die_halfway() -> None:
            middleman.dead = middleman.dead or half.exists()

        middleman.before = die_halfway
    preflow(root, middleman.port, "run", "--no-promote")
    preflow(root, middleman.port, "stop")
    assert (root / "dvc.lock").read_bytes() == unbroken["lock"]
    assert middleman.taken > 0 or trouble == "dead"
    assert middleman.dead or trouble == "slow"
    middleman.dead, middleman.before = False, lambda: None
    for _ in range(3):  # a server may lose a connection on a machine that is busy: the next command goes on from there
        preflow(root, middleman.port, "status")
        if next(root.glob(".preflow/journal/*/shipped"), None):
            break
    assert recorded(root, server) == unbroken["record"]
