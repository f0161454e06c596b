"""MLflow and Prefect on a real Postgres: several runs at once, and a crash of it in their midst.

Servers are started by the commands of deploy/compose.yaml, with its passwords and its access control.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.deploy.conftest import Servers
from tests.deploy.manifests import WORKLOADS
from tests.deploy.project import STAGES, STEPS, Point, make_project, points_of, preflow, report
from tests.flows.toy import dvc_repro, git

INSTALL = "absent; pip install -e '.[postgres,auth]' -c constraints.txt"
pytest.importorskip("psycopg2", reason=f"Postgres' driver is {INSTALL}")
pytest.importorskip("flask_wtf", reason=f"what MLflow's access control needs is {INSTALL}")
pytestmark = [pytest.mark.postgres, pytest.mark.slow]
SEEDS = (0, 1, 2)
POINTS = len(SEEDS) * len(STAGES) * STEPS * 3


def kept_points(servers: Servers, runs: list[str]) -> Counter[Point]:
    """Every number of the stages of these runs in MLflow's database."""
    names = ", ".join(f"'{run}'" for run in runs)
    found = servers.rows(
        "mlflow",
        f"""select t.value, m.key, m.step, m.timestamp, case when m.is_nan then null else m.value end
        from metrics m join tags t on t.run_uuid = m.run_uuid and t.key = 'preflow.run'
        where t.value in ({names}) and split_part(m.key, '/', 2) in ('loss', 'kl', 'worst')""",
    )
    return Counter(found)


def ended(servers: Servers, runs: list[str]) -> dict[str, int]:
    """How many of the MLflow runs of these runs, parents and children, ended how."""
    names = ", ".join(f"'{run}'" for run in runs)
    query = f"""select r.status, count(*) from runs r join tags t on t.run_uuid = r.run_uuid
        where t.key = 'preflow.run' and t.value in ({names}) group by r.status"""
    return dict(servers.rows("mlflow", query))


def test_three_runs_at_once_lose_nothing_and_can_be_done_again(servers: Servers, tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    started = [preflow(root, servers.client, "run", "--json", "--set", f"seed={seed}") for seed in SEEDS]
    reports = [report(process) for process in started]
    assert [one["code"] for one in reports] == [0, 0, 0], [one["stderr"][-1500:] for one in reports]
    runs = [one["run"] for one in reports]

    assert len(points_of(root)) == POINTS
    all_is_told(root, servers, runs)
    flows = servers.rows("prefect", f"select name, state_name from flow_run where name in {tuple(runs)}")
    assert dict(flows) == dict.fromkeys(runs, "Completed")

    for one, seed in zip(reports, SEEDS):
        clone = tmp_path / f"clone-{seed}"
        git(tmp_path, "clone", "-q", str(root), str(clone))
        git(clone, "fetch", "-q", "origin", f"{one['ref']}:{one['ref']}")
        git(clone, "checkout", "-q", one["ref"])
        lock = (clone / "dvc.lock").read_bytes()
        (clone / "dvc.lock").unlink()
        dvc_repro(clone)
        assert (clone / "dvc.lock").read_bytes() == lock
        assert (clone / "data" / "gate" / "text").read_text().startswith(f"gate {seed}\n")


def test_postgres_restarts_in_their_midst(servers: Servers, tmp_path: Path, meet: Path) -> None:
    """As after a crash, with no time to say goodbye to anybody."""
    root = make_project(tmp_path / "project")
    with waiting(root, servers, meet, seeds=(3, 4)) as started:
        servers.postgres.stop("immediate")
        servers.postgres.start()
    reports = [report(process) for process in started]
    assert [one["code"] for one in reports] == [0, 0], [one["stderr"][-1500:] for one in reports]
    all_is_told(root, servers, [one["run"] for one in reports])


def test_postgres_is_away_until_after_the_end(servers: Servers, tmp_path: Path, meet: Path) -> None:
    """The run goes on to its end; what MLflow could not take is told once Postgres is back."""
    root = make_project(tmp_path / "project")
    try:
        with waiting(root, servers, meet, seeds=(5,)) as (process,):
            servers.postgres.stop()
        one = report(process)
    finally:
        servers.postgres.start()
    assert one["code"] == 0, one["stderr"][-1500:]
    assert "shipped by the next" in one["stderr"]
    all_is_told(root, servers, [one["run"]])


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_kubelet_is_answered(servers: Servers, name: str, probe: str) -> None:
    """It has no password, and asks a pod by its address, which no list of hosts can name."""
    asked, port = WORKLOADS[name].main[probe]["httpGet"], getattr(servers.native, name)
    told = requests.get(f"http://127.0.0.1:{port}{asked['path']}", headers={"Host": f"10.1.2.3:{port}"}, timeout=60)
    assert told.status_code == 200, told.text


def all_is_told(root: Path, servers: Servers, runs: list[str]) -> None:
    """Every number that was written down is in MLflow once, and every run there has ended well."""
    assert preflow(root, servers.client, "status").wait(timeout=300) == 0  # ships what was not taken
    written = points_of(root)
    assert written.total() == len(written) == len(runs) * len(STAGES) * STEPS * 3
    assert kept_points(servers, runs) == written
    assert ended(servers, runs) == {"FINISHED": len(runs) * (1 + len(STAGES))}


@contextmanager
def waiting(root: Path, servers: Servers, meet: Path, seeds: tuple[int, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """A run a seed, all of them in the middle of `rl`, where they stay until the end of the block."""
    own = servers.client | {"TOY_MEET": str(meet)}
    started = [preflow(root, own, "run", "--json", "--set", f"seed={seed}") for seed in seeds]
    while len(list(meet.glob("*.waits"))) < len(seeds):
        assert all(process.poll() is None for process in started), [report(process) for process in started]
        time.sleep(0.1)
    yield started
    (meet / "go").touch()
