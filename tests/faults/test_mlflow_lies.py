"""An MLflow that lies, drips or hangs: what it did not hear is told later, once, and nobody waits for it for ever."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import champion
from rlhf.errors import DependencyDown
from tasks import tracking
from tasks.outcome import StageResult
from tasks.tracking import boundary
from tests.faults import child, small_stage
from tests.faults.middleman import Middleman
from tests.pools.hosts import mlflow

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import toy_runs as toy

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
LIES = {
    "HTML": b"<!doctype html><title>Please log in</title>",
    "half of an answer": b'{"experiments": [{"experiment_id": "0", "na',
    "JSON of another shape": b'{"status": "ok", "detail": [1, 2]}',
    "nothing at all": b"",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server with a database of its own."""
    with mlflow(tmp_path_factory.mktemp("server")) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def middleman(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Middleman]:
    """Where the store of this test's project is."""
    made = Middleman(server)
    for name in ("PREFLOW_HOME", "PREFLOW_RUN", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{made.port}")
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)
    yield made
    made.close()


def project(root: Path, run: str) -> Path:
    """One whose run is over and of which MLflow has heard nothing yet."""
    toy.write_tree(root)
    tracking.announce(root, run, {"registry": f"policy-{run}"})
    toy.run_all(root, run)
    return root


def close(root: Path, run: str) -> dict[str, Any]:
    results = {name: StageResult(name, "ran", 1.0) for name in toy.STAGES}
    return tracking.finish_run(root, run, results, "FINISHED")


def next_command(root: Path) -> None:
    boundary._quiet_until = 0.0  # as in a process of its own
    tracking.reconcile(root)


def recorded(run: str, port: int) -> dict[str, Any]:
    """By name of a run everything that the server has of it, but for ids and what a clock says."""
    client = MlflowClient(f"http://127.0.0.1:{port}")
    found: dict[str, Any] = {}
    experiment = client.get_experiment_by_name(f"preflow-{run}")
    for one in client.search_runs([experiment.experiment_id], max_results=100):
        parent = "mlflow.parentRunId" not in one.data.tags
        name = "the run" if parent else one.info.run_name
        assert name not in found, f"{name} is there twice"
        points = {
            key: [(point.step, point.value) for point in client.get_metric_history(one.info.run_id, key)]
            for key in one.data.metrics
            if not any(part in key for part in ("seconds", "system/", "cost/"))
        }
        files = sorted(file.path for file in client.list_artifacts(one.info.run_id))
        found[name] = (one.info.status, points, one.data.params, sorted(one.data.tags), files)
    return found


@pytest.fixture(scope="module")
def unbroken(server: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run whose MLflow is well."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("PREFLOW_HOME", raising=False)
        patched.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server}")
        assert close(project(tmp_path_factory.mktemp("unbroken"), "unbroken"), "unbroken")
    return recorded("unbroken", server)


@pytest.mark.faults(
    28,
    injected="what answers for MLflow says 200 with HTML, half of an answer, other JSON or nothing, from the start or "
    "from the 12th request on",
    happens="one line says so; the next command tells all: same points, params, tags and files, no run twice",
)
@pytest.mark.parametrize(("lie", "since"), [("JSON of another shape", 0), *((lie, 12) for lie in LIES)])
def test_what_it_says_yes_to_and_does_not_keep_is_told_again(
    lie: str, since: int, middleman: Middleman, server: int, unbroken: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = f"{list(LIES).index(lie)}-{since}"
    root = project(tmp_path, run)
    middleman.says = lambda _: LIES[lie] if middleman.taken >= since else None
    assert close(root, run) == {}
    said = capsys.readouterr().err
    assert said.startswith("MLflow: ") and "Traceback" not in said and f"kept in {root}" in said
    assert not list(root.glob(".preflow/journal/*/shipped"))
    middleman.says = lambda _: None
    next_command(root)
    assert recorded(run, server) == unbroken
    assert list(root.glob(".preflow/journal/*/shipped"))


@pytest.mark.faults(
    28,
    injected="MLflow answers byte by byte and never to the end, while a run is closed and its registry asked",
    happens="each question has its time and then an end; the next command tells all, once",
)
def test_one_that_drips_holds_nobody_up(
    middleman: Middleman, server: int, unbroken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = project(tmp_path, "drips")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    middleman.drips = True
    assert close(root, "drips") == {}
    assert "TimeoutError: get_experiment_by_name of http://127.0.0.1" in capsys.readouterr().err
    with pytest.raises(DependencyDown, match=r"the model registry did not answer .*get_model_version_by_alias of http"):
        champion.reigning(root, "policy")
    teller = [sys.executable, "-m", "tasks.tracking", "reconcile"]
    subprocess.run(
        teller, cwd=root, env=os.environ | {"PYTHONPATH": str(REPO)}, check=True
    )  # or it would hold the lock for ever
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    middleman.drips = False
    next_command(root)
    assert recorded("drips", server) == unbroken


@pytest.mark.faults(
    29,
    injected="MLflow is asked, and answers nothing before the training of a stage is over",
    happens="the training ends all the same, having asked it nothing; its journal has what logs cost; all is told then",
)
def test_training_waits_for_none_of_its_answers(
    middleman: Middleman, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, trained = small_stage.make_root(tmp_path), threading.Event()
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    middleman.before = lambda: trained.wait() and None
    tracking.keep(root, "test")
    tracking.announce(root, "test", {"registry": "policy-hangs"})
    while not middleman.asked_by:
        threading.Event().wait(0.05)
    assert child.ended(small_stage.typed_sft(root)) == 0
    asked_by, answered = set(middleman.asked_by), middleman.answered
    trained.set()
    assert answered == 0 and all("tasks.tracking" in line for line in asked_by)
    *events, end = small_stage.events(root)
    assert [step for step, _ in losses(events)] == list(range(small_stage.STEPS))
    assert end["status"] == "FINISHED" and end["logging_seconds"] > 0.0
    tracking.finish_run(root, "test", {}, "FINISHED")
    assert recorded("hangs", server)["sft"][1]["sft/loss"] == losses(events)


def losses(events: list[dict[str, Any]]) -> list[tuple[int, float]]:
    logged = [(event["step"], event["metrics"]) for event in events if event["event"] == "metrics"]
    return [(step, metrics["sft/loss"]) for step, metrics in logged if "sft/loss" in metrics]


@pytest.mark.parametrize("lie", list(LIES))
def test_a_registry_that_lies_is_no_empty_one(lie: str, middleman: Middleman, tmp_path: Path) -> None:
    """What is the champion's would be taken for nobody's, and removed."""
    middleman.says = lambda _: LIES[lie]
    for ask in (
        lambda: champion.reigning(tmp_path, "policy"),
        lambda: tracking.versions(tmp_path),
        lambda: tracking.holding(tmp_path, "policy", "md5"),
        lambda: tracking.knows(tmp_path, "policy"),
    ):
        with pytest.raises(DependencyDown, match="the model registry did not answer"):
            ask()
    middleman.says = lambda _: None
    assert tracking.versions(tmp_path) == [] and not tracking.knows(tmp_path, "policy")
