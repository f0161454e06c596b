"""The set-up makes the database that a first run would wait for, and leaves a user's own server alone."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flows import first, server


def test_nothing_is_made_where_the_user_has_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv(server._OWN, raising=False)
    first.main(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_prefect_has_its_tables_and_a_second_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFLOW_HOME", str(tmp_path))
    schemas = []
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "flows.first"], check=True)
        with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
            schemas.append(database.execute("select name, sql from sqlite_master order by name").fetchall())
    assert {"flow_run", "task_run", "alembic_version"} <= {name for name, _ in schemas[0]}
    assert schemas[0] == schemas[1]
