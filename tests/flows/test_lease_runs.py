"""The same run on two hosts: one does it, and one that was frozen meanwhile promotes nothing.

`preflow run` itself, with Prefect, DVC and MLflow, over stages of a few lines.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import dvc, lease
from tests.flows import small
from tests.flows.test_lease import stop
from tests.flows.toy import REPO, git
from tests.pools.hosts import freeze, power_off, until

pytestmark = pytest.mark.slow

HOLD = """
import time
while name == "gate" and Path(os.environ.get("HOLD", "/nowhere")).exists():
    print("held", flush=True)
    time.sleep(0.1)
"""
PROGRAM = """
import sys
from flows import lease, run_lease
run_lease.TIMES = lease.USUAL = lease.Times(beat=float(sys.argv.pop(1)), window=float(sys.argv.pop(1)))
from flows.cli import main
main()
"""
OFTEN, NEVER = "0.2", "3600"


@dataclass
class Host:
    """A clone, and how often it renews a lease."""

    root: Path
    api: str
    beat: str = OFTEN
    window: str = "60"

    @property
    def said(self) -> str:
        return self.root.with_suffix(".said").read_text()

    @contextmanager
    def run(self, **further: str) -> Iterator[subprocess.Popen[bytes]]:
        """`preflow run --json`, begun."""
        environ = {**os.environ, "PYTHONPATH": str(REPO), "PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"} | further
        argv = [sys.executable, "-c", PROGRAM, self.beat, self.window, "run", "--json"]
        with self.root.with_suffix(".said").open("wb") as log:
            run = subprocess.Popen(argv, cwd=self.root, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            yield run
        finally:
            power_off(run)

    def report(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.said.splitlines()[-1])
        return found


@pytest.fixture
def clones(tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, Host]:
    """With the same code, parameters and data; each has a registry of its own."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "remote.git")
    hosts = [Host(small.make(tmp_path / name), api) for name in ("first", "second")]
    for host in hosts:
        git(host.root, "remote", "add", "origin", str(tmp_path / "remote.git"))
        argv = ("remote", "add", "--quiet", "--local", "--default", "shared", str(tmp_path / "bytes"))
        assert dvc.call(host.root, *argv).returncode == 0
        (host.root / "stage.py").write_text(small.STAGE.replace("name = sys.argv[1]\n", f"name = sys.argv[1]\n{HOLD}"))
        small.shard(host.root, "a", "good")
    return hosts[0], hosts[1]


@pytest.mark.faults(
    35,
    injected="`preflow run` of two clones with one git and one DVC remote; the one at it is frozen (SIGSTOP) past its "
    "lease, and thaws later",
    happens="while it is alive the other ends with 75, naming its process; frozen it is taken over, and when it thaws "
    "it stops with 85",
)
def test_one_runs_the_other_is_told_and_one_that_was_frozen_stops(clones: tuple[Host, Host], tmp_path: Path) -> None:
    first, second = clones
    hold = tmp_path / "hold"
    hold.touch()
    with first.run(HOLD=str(hold)) as run:
        until(lambda: "held" in first.said, lambda: first.said)
        with second.run() as refused:
            assert refused.wait() == 75 and f"process {run.pid} on " in second.said and "is at it" in second.said
        stop(run)
        goes_on = freeze(run)
        second.window = "2"
        with second.run() as taking:
            assert taking.wait() == 0, second.said
        assert f"taken over from process {run.pid} on " in second.said
        assert second.report()["promotion"]["promoted"]  # type: ignore[index]
        goes_on()
        assert run.wait() == 85, first.said
    assert "and given up since, as it was not renewed in time: nothing is published; stopping" in first.said
    assert first.report()["promotion"] is None
    assert not git(tmp_path / "remote.git", "for-each-ref", lease.REFS), "nobody is at it any more"


@pytest.mark.faults(
    35,
    injected="the same, and it thaws with its stages done, before it hears that the lease is lost",
    happens="its gate says yes, and it promotes nothing",
)
def test_one_that_was_frozen_promotes_nothing_where_nobody_stops_it(clones: tuple[Host, Host], tmp_path: Path) -> None:
    first, second = clones
    hold = tmp_path / "hold"
    hold.touch()
    first.beat = NEVER
    with first.run(HOLD=str(hold)) as run:
        until(lambda: "held" in first.said, lambda: first.said)
        stop(run)
        goes_on = freeze(run)
        second.window = "2"
        with second.run() as taking:
            assert taking.wait() == 0, second.said
        hold.unlink()
        goes_on()
        assert run.wait() == 0, first.said
    promotion = first.report()["promotion"]
    assert not promotion["promoted"] and "the lease was taken over" in promotion["reason"]  # type: ignore[index]


def test_the_same_run_again_and_another_one_meanwhile_ask_nobody_to_wait(
    clones: tuple[Host, Host], tmp_path: Path
) -> None:
    first, second = clones
    hold = tmp_path / "hold"
    hold.touch()
    with first.run(HOLD=str(hold)) as run:
        until(lambda: "held" in first.said, lambda: first.said)
        small.shard(second.root, "b", "good")  # other data: another run
        with second.run() as other:
            assert other.wait() == 0, second.said
        hold.unlink()
        assert run.wait() == 0, first.said
    small.shard(first.root, "b", "good")
    with first.run() as again:  # what the other has answered: a run that was done may be done here, too
        assert again.wait() == 0, first.said
