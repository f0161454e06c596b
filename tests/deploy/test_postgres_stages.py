"""Three whole pipelines at once, real stages and other params each, told to MLflow and Prefect on a real Postgres."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Servers
from tests.deploy.project import Point, points_of, report
from tests.test_end_to_end import STAGES, copied, environ
from tests.test_reproduce import TINY

INSTALL = "absent; pip install -e '.[postgres,auth]' -c constraints.txt"
pytest.importorskip("psycopg2", reason=f"Postgres' driver is {INSTALL}")
pytest.importorskip("flask_wtf", reason=f"what MLflow's access control needs is {INSTALL}")
pytestmark = [pytest.mark.postgres, pytest.mark.slow]
SETTINGS = ("seed=1", "seed=2", "rl.algorithm=grpo")
PATIENCE = 3600  # seconds for the three; two idle cores need 420, and others may have work too


def preflow(root: Path, servers: Servers, *words: str) -> "subprocess.Popen[str]":
    """Start `preflow WORDS --json` in a folder."""
    command = [sys.executable, "-m", "flows.cli", *words, "--json"]
    env = environ() | servers.client | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def kept_points(servers: Servers, wanted: Counter[Point]) -> Counter[Point]:
    """What MLflow's database has of these runs under these names."""
    runs = ", ".join(f"'{run}'" for run in {point[0] for point in wanted})
    found = servers.rows(
        "mlflow",
        f"""select t.value, m.key, m.step, m.timestamp, case when m.is_nan then null else m.value end
        from metrics m
        join tags t on t.run_uuid = m.run_uuid and t.key = 'preflow.run'
        join tags s on s.run_uuid = m.run_uuid and s.key = 'preflow.stage'
        where t.value in ({runs})""",
    )
    named = {point[:4] for point in wanted}
    return Counter(point for point in found if point[:4] in named)


def test_three_pipelines_at_once_lose_no_number_and_each_can_be_reproduced(servers: Servers, tmp_path: Path) -> None:
    root = copied(tmp_path / "project", TINY)
    started = [preflow(root, servers, "run", "--set", setting) for setting in SETTINGS]
    reports = [report(process) for process in started]
    assert [one["code"] for one in reports] == [0, 0, 0], [one["stderr"][-1500:] for one in reports]
    assert preflow(root, servers, "status").wait(timeout=300) == 0  # ships what was not taken

    written = points_of(root)
    assert {point[0] for point in written} == {one["run"] for one in reports}
    assert written.total() == len(written) > 1000
    assert kept_points(servers, written) == written
    print(f"{written.total()} numbers of {len(reports)} runs, all kept")

    outs = [_reproduced(root, servers, one["run"]) for one in reports]
    assert all(one["verdict"] == "byte-equal" for one in outs), outs
    assert {stage["stage"] for stage in outs[0]["outs"]} == set(STAGES)
    policies = [digest for one in outs for digest in {out["md5"] for out in one["outs"] if out["stage"] == "rl"}]
    assert len(set(policies)) == len(policies)  # three policies, not one thrice


def _reproduced(root: Path, servers: Servers, run: str) -> dict[str, Any]:
    process = preflow(root, servers, "reproduce", run)
    told, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors[-1500:]
    found: dict[str, Any] = json.loads(told)
    return found
