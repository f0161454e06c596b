"""Fixtures for the tests of tasks."""

from pathlib import Path

import pytest

from tasks.tracking import boundary
from tasks.tracking.store import connect


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, so it is done once."""
    root = tmp_path_factory.mktemp("store")
    connect(root).client.search_experiments()
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def store_root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty MLflow store, and no environment variable that says otherwise."""
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME", "PREFLOW_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path


@pytest.fixture
def root(store_root: Path) -> Path:
    """The toy pipeline of `toy_runs` there, nothing of which has run."""
    from tests.tasks import toy_runs

    return toy_runs.write_tree(store_root)
