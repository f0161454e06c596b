"""MLflow's own database: where it is, made whole or not at all, mended where it is behind."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.tracking import store
from tasks.tracking.store import connect, uri_of

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


def test_the_store_is_that_of_the_main_checkout(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    toy.write_file(tree / ".git", f"gitdir: {root}/.git/worktrees/tree\n")
    assert uri_of(tree) == uri_of(root) == f"sqlite:///{root}/mlruns/mlflow.db"


def test_a_database_is_there_only_when_it_is_whole(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (root / "mlruns/mlflow.db").read_bytes()
    path = tmp_path / "new" / "mlflow.db"

    def interrupted(part: Path) -> None:
        part.write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_upgrade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store._make_whole(path)
    assert not path.exists()
    monkeypatch.setattr(store, "_upgrade", lambda part: part.exists() or part.write_bytes(whole))
    store._make_whole(path)
    assert store._is_whole(path)


@pytest.mark.parametrize(("kept", "said"), [(False, "left half made; making it again"), (True, "upgrading")])
def test_a_database_that_is_behind_is_mended(
    root: Path, kept: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "mlruns/mlflow.db"
    if kept:
        toy.whole_run(root)
        connect(root).client._tracking_client.store.engine.dispose()
    whole, upgraded = path.read_bytes(), []

    def upgrade(part: Path) -> None:  # the real one goes through all of MLflow's history, which takes seconds
        upgraded.append(part.exists())
        part.write_bytes(whole)

    with closing(sqlite3.connect(path)) as database, database:
        database.execute("update alembic_version set version_num = 'e5d8a1c9b2f4'")
    monkeypatch.setattr(store, "_upgrade", upgrade)
    store._open.cache_clear()
    assert len(connect(root).client.search_experiments()) == (2 if kept else 1)
    assert upgraded == [kept]  # with runs it is a copy that is upgraded
    assert said in capsys.readouterr().err
