"""Trouble between a run and its workers: what was promised of it, on a toy that works in steps and keeps each one."""

from pathlib import Path

import psutil
import pytest

from flows.prefect_api import ask
from tests.flows.toy import PARAMS
from tests.pools.hosts import Hosts, flow_runs, said, until
from tests.pools.steps import HOLD, hosts_of_steps


@pytest.fixture
def hosts(tmp_path: Path, api: str) -> Hosts:
    return hosts_of_steps(tmp_path, api)


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    path = tmp_path / "hold"
    path.touch()
    return path


def kept(hosts: Hosts, step: int) -> bool:
    """Whether the exchange has a checkpoint of this step, whole."""
    index = [path.read_text() for path in hosts.exchange.glob("checkpoints/rl-*/*/index.json")]
    return any(f'"reached": [{step},' in text for text in index)


def steps(root: Path) -> list[int]:
    """Steps of `rl` that a host has done, in their order."""
    return [int(line.split()[2]) for line in said(root).read_text().splitlines() if line.startswith("rl step ")]


@pytest.mark.slow
def test_what_is_to_run_again_goes_on_from_its_own_steps_and_no_others(hosts: Hosts, hold: Path) -> None:
    """A run is stopped; one that is told to run all again is preempted, and the same host takes it once more."""
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu", **{HOLD: str(hold)}) as worker:
        with hosts.started(here, "run") as run:
            until(lambda: kept(hosts, 2), said(there).read_text)
            run.terminate()
            assert run.wait() == 85, said(here).read_text()
        with hosts.started(here, "run", "--rerun") as run:
            until(lambda: len(steps(there)) == 4, said(there).read_text)
            assert steps(there) == [1, 2, 1, 2], "nothing is taken from the run before"
            worker.terminate()
            assert worker.wait() == 0, said(there).read_text()
            hold.unlink()
            with hosts.worker(there, "gpu"):
                assert run.wait() == 0, said(here).read_text()
    assert steps(there) == [1, 2, 1, 2, 3], "and nothing of its own is done twice"
    assert not [path for path in hosts.exchange.rglob("*") if path.is_file()]
