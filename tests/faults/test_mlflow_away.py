"""Pipelines beside an MLflow server that is dead, slow, or dies: the same weights, and in the end the same record."""

import json
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.kills.checkout import SHORT
from tests.faults.middleman import Middleman
from tests.pools.hosts import mlflow
from tests.test_end_to_end import copied, typed

pytestmark = pytest.mark.slow
MEASURED = ("seconds", "system/", "time/", "speed/", "cost/", "_per_second", "peak", "mfu")
"""Parts of names of what a clock or a meter says: no two runs agree on that."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server with a database of its own."""
    with mlflow(tmp_path_factory.mktemp("server")) as url:
        yield int(url.rpartition(":")[2])


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


def is_of_a_stage(command: tuple[str, ...]) -> bool:
    """Whether this is what a stage runs, or a rank of it."""
    modules = [word for flag, word in pairwise(command) if flag == "-m"]
    return any(word.startswith("tasks.") and word != "tasks.tracking" for word in modules)


def ends(root: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """First and last event of each stage."""
    texts = [path.read_text().splitlines() for path in sorted(root.glob(".preflow/journal/*/*/events.jsonl"))]
    return [(json.loads(lines[0]), json.loads(lines[-1])) for lines in texts]


def in_the_journal(root: Path) -> list[float]:
    """Seconds that stages spent in calls that log, as their journals have them."""
    return [end["logging_seconds"] for _, end in ends(root)]


def of_stages(root: Path) -> list[float]:
    return [end["time"] - begin["time"] for begin, end in ends(root)]


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
            happens="same dvc.lock; the next command tells the rest: same points, no run twice; no stage asks MLflow, "
            "and of its seconds less than 1 in 100 go into its journal",
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
    if trouble == "slow":
        assert middleman.asked_by and not [line for line in middleman.asked_by if is_of_a_stage(line)]
        assert 0.0 < sum(in_the_journal(root)) < 0.01 * sum(of_stages(root))
    middleman.dead, middleman.before = False, lambda: None
    for _ in range(3):  # a server may lose a connection on a machine that is busy: the next command goes on from there
        preflow(root, middleman.port, "status")
        if next(root.glob(".preflow/journal/*/shipped"), None):
            break
    assert recorded(root, server) == unbroken["record"]
