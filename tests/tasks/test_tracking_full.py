"""No room in MLflow's database: the run goes on, and is told of when there is room again."""

from pathlib import Path

import pytest

from tasks import tracking
from tasks.outcome import StageResult
from tasks.tracking import boundary
from tasks.tracking.store import connect
from tests.faults.full_disk import full_beyond
from tests.tasks import toy_runs


@pytest.mark.slow
@pytest.mark.faults(
    11,
    injected="no room in MLflow's SQLite database, from the middle of a run to its end",
    happens="it is said, with where the record is; the next command tells MLflow all of it, once",
)
def test_a_full_database_is_told_later(
    store_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = toy_runs.write_tree(store_root)
    tracking.begin_run(root, "r1", {"name": "kept"})
    told = {stage: StageResult(stage, "ran", 1.5) for stage in toy_runs.STAGES}
    with full_beyond((root / "mlruns/mlflow.db").stat().st_size):  # it may change, and not grow
        toy_runs.run_all(root, "r1")
        tracking.replay(root, "r1")
        assert tracking.finish_run(root, "r1", told, "FINISHED") == {}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MLflow: ")]
    assert "disk" in said[0] and str(root / ".preflow/journal") in said[0]
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)
    tracking.reconcile(root)
    client = connect(root).client
    found = {run.info.run_name: run for run in client.search_runs(["1"])}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert set(found) == {"kept", *toy_runs.STAGES}
    history = client.get_metric_history(found["rl"].info.run_id, "rl/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
