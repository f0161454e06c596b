"""The backup of docs/runbook.md, restored into an empty Postgres and empty folders, has the run and its bytes.

Both blocks of the page are run as they stand; servers are started by the commands of deploy/compose.yaml.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from flows import dvc
from tests.deploy import cluster
from tests.deploy.cluster import Cluster
from tests.deploy.composed import REPO, SECRETS, Native, sh
from tests.deploy.conftest import Servers
from tests.deploy.project import STAGES, STEPS, make_project, preflow, report
from tests.flows.toy import git
from tests.ports import free_ports

INSTALL = "absent; pip install -e '.[postgres,auth]' -c constraints.txt"
pytest.importorskip("psycopg2", reason=f"Postgres' driver is {INSTALL}")
pytest.importorskip("flask_wtf", reason=f"what MLflow's access control needs is {INSTALL}")
pytestmark = [pytest.mark.postgres, pytest.mark.slow]
PASSWORDS = {name: SECRETS[name] for name in ("MLFLOW_DB_PASSWORD", "PREFECT_DB_PASSWORD")}


def block(name: str, folder: Path, postgres: Cluster, paths: Mapping[str, Path]) -> None:
    """Run the block of the runbook that begins with this word."""
    text = (REPO / "docs" / "runbook.md").read_text(encoding="utf-8")
    (script,) = re.findall(rf"```bash\n# {name}: [^\n]*\n(.*?)```", text, re.DOTALL)
    environ = os.environ | postgres.environ() | PASSWORDS | {"PGUSER": "postgres"}
    sh("bash", "-c", script, env=environ | {key: str(path) for key, path in paths.items()}, cwd=folder)


def places(folder: Path) -> dict[str, Path]:
    """An empty git repository and two empty folders, by the names that the runbook gives them."""
    found = {name: folder / name.lower() for name in ("PREFLOW_REPOSITORY", "ARTIFACTS", "REMOTE")}
    for path in found.values():
        path.mkdir(parents=True)
    git(found["PREFLOW_REPOSITORY"], "init", "-q", "--bare", "-b", "main")
    return found


def test_a_restored_backup_has_the_run_and_its_bytes(servers: Servers, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    before = places(tmp_path / "before")
    before["ARTIFACTS"].rmdir()
    before["ARTIFACTS"].symlink_to(servers.native.folder / "artifacts")
    one = report(preflow(root, servers.client, "run", "--json"))
    assert one["code"] == 0, one["stderr"][-1500:]
    _pushed(root, before)
    saved = tmp_path / "saved"
    shutil.copytree(REPO / "deploy", saved / "deploy")
    block("backup", saved, servers.postgres, before)

    after = places(tmp_path / "after")
    with cluster.running(SECRETS["POSTGRES_PASSWORD"]) as postgres:
        block("restore", saved, postgres, after)
        with _serving(postgres, after["ARTIFACTS"].parent) as again:
            assert _flow_runs(again, one["run"]) == [(one["run"], "COMPLETED")]
            _mlflow_has(again, one["run"])

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(after["PREFLOW_REPOSITORY"]), str(clone))
    git(clone, "fetch", "-q", "origin", f"{one['ref']}:{one['ref']}")
    git(clone, "checkout", "-q", one["ref"])
    sh(dvc.program(), "remote", "add", "--local", "--default", "shared", after["REMOTE"], env=dvc.environ(), cwd=clone)
    sh(dvc.program(), "pull", env=dvc.environ(), cwd=clone)
    for stage in STAGES:
        path = Path("data", stage, "text")
        assert (clone / path).read_bytes() == (root / path).read_bytes()


def _pushed(root: Path, to: Mapping[str, Path]) -> None:
    """Refs and bytes, as docs/servers.md asks."""
    git(root, "remote", "add", "origin", str(to["PREFLOW_REPOSITORY"]))
    git(root, "push", "-q", "origin", "main", "refs/preflow/*:refs/preflow/*")
    sh(dvc.program(), "remote", "add", "--local", "--default", "shared", to["REMOTE"], env=dvc.environ(), cwd=root)
    sh(dvc.program(), "push", env=dvc.environ(), cwd=root)


@contextmanager
def _serving(postgres: Cluster, folder: Path) -> Iterator[Servers]:
    """Both servers over restored databases, after the upgrades that every start brings."""
    native = Native(folder, postgres.port, *free_ports(2))
    native.once("mlflow-upgrade")
    native.once("prefect-upgrade")
    with native.serving("mlflow", "prefect"):
        yield Servers(postgres, native)


def _mlflow(servers: Servers, path: str, asked: Mapping[str, Any] | None = None) -> Any:
    """What MLflow answers to a client that knows its password."""
    client = servers.client
    user = (client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"])
    where = f"{client['MLFLOW_TRACKING_URI']}/api/2.0/{path}"
    answer = requests.request("POST" if asked else "GET", where, json=asked, auth=user, timeout=60)
    answer.raise_for_status()
    return answer.json()


def _flow_runs(servers: Servers, run: str) -> list[tuple[str, str]]:
    """Name and state of the flow runs of this run."""
    client = servers.client
    user, password = client["PREFECT_API_AUTH_STRING"].split(":")
    asked = {"flow_runs": {"name": {"any_": [run]}}}
    where = f"{client['PREFECT_API_URL']}/flow_runs/filter"
    answer = requests.post(where, json=asked, auth=(user, password), timeout=60)
    answer.raise_for_status()
    return [(flow["name"], flow["state"]["type"]) for flow in answer.json()]


def _mlflow_has(servers: Servers, run: str) -> None:
    """All its stages with their curves, and a table from the artifact store."""
    found = _mlflow(servers, "mlflow/experiments/search", {"max_results": 100})["experiments"]
    asked = {"experiment_ids": [one["experiment_id"] for one in found], "filter": f"tags.`preflow.run` = '{run}'"}
    runs = _mlflow(servers, "mlflow/runs/search", asked)["runs"]
    assert [one["info"]["status"] for one in runs] == ["FINISHED"] * (1 + len(STAGES))
    stages = {tag["value"]: one["info"] for one in runs for tag in one["data"]["tags"] if tag["key"] == "preflow.stage"}
    rl, experiment = stages["rl"]["run_id"], stages["rl"]["experiment_id"]

    history = f"mlflow/metrics/get-history?run_id={rl}&metric_key=rl/loss&max_results={2 * STEPS}"
    assert sorted(point["step"] for point in _mlflow(servers, history)["metrics"]) == list(range(STEPS))
    files = _mlflow(servers, f"mlflow/artifacts/list?run_id={rl}")["files"]
    (table,) = [file["path"] for file in files if "samples" in file["path"]]
    kept = _mlflow(servers, f"mlflow-artifacts/artifacts/{experiment}/{rl}/artifacts/{table}")
    assert "blue, says rl" in json.dumps(kept)
