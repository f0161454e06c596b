"""Trouble between a run and its workers: what was promised of it, on a toy that works in steps and keeps each one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flows.prefect_api import ask
from tests.flows.toy import PROGRAM
from tests.pools.hosts import Hosts, flow_runs, freeze, said, until
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


@pytest.mark.slow
def test_stages_with_a_gpu_in_common_take_turns(hosts: Hosts, hold: Path) -> None:
    """Of two pools, on workers that see GPUs 0 and 1, and 1 alone."""
    here, both, one = hosts.host("here"), hosts.host("both"), hosts.host("one")
    (here / "params.yaml").write_text((here / "params.yaml").read_text().replace("rl: gpu", "rl: gpu, dpo: small"))
    small = {"CUDA_VISIBLE_DEVICES": "1", "PREFECT_INTERNAL_LOGGING_LEVEL": "DEBUG"}
    with hosts.worker(one, "small", **small):
        pass  # the pool is there, and nobody takes anything of it yet
    with hosts.worker(both, "gpu", CUDA_VISIBLE_DEVICES="0,1", **{HOLD: str(hold)}), hosts.started(here, "run") as run:
        until(lambda: steps(both) == [1, 2], said(here).read_text)
        with hosts.worker(one, "small", **small):
            until(lambda: waits(one) or "dpo of run" in said(one).read_text(), said(here).read_text)
            assert "dpo of run" not in said(one).read_text()
            hold.unlink()
            assert run.wait() == 0, said(here).read_text()
    assert steps(both) == [1, 2, 3] and "dpo works" in said(one).read_text()


def waits(root: Path) -> bool:
    """Whether Prefect has refused slots to a stage of this host, as its client tells in detail."""
    return "Unable to acquire concurrency slot" in said(root).read_text()


LATE = """
import os, time
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Late(LocalFileSystem):
    protocol = "late"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("late://"))

    def cat_file(self, path, *arguments, **how):
        if time.time() - os.stat(path).st_mtime < 15:
            raise FileNotFoundError(path)
        return super().cat_file(path, *arguments, **how)

fsspec.register_implementation("late", Late)
"""


@pytest.mark.slow
def test_an_exchange_that_shows_new_names_late_costs_nothing(hosts: Hosts) -> None:
    """As NFS does, to who has looked for them before: here for 15 seconds, so long after the stage has ended."""
    here, there = hosts.host("here"), hosts.host("there")
    slow = replace(hosts, program=("-c", LATE + PROGRAM))
    with hosts.worker(there, "gpu"):
        done = slow.typed(here, "run", PREFLOW_EXCHANGE=f"late://{hosts.exchange}")
    assert done.returncode == 0 and "the worker was lost" not in done.stderr, done.stderr
    assert steps(there) == [1, 2, 3]


def lock_of_one_machine(hosts: Hosts) -> bytes:
    alone = hosts.host("alone")
    (alone / "params.yaml").write_text((alone / "params.yaml").read_text().replace("pools: {rl: gpu}", "pools: {}"))
    done = hosts.typed(alone, "run")
    assert done.returncode == 0, done.stderr
    return (alone / "dvc.lock").read_bytes()


@pytest.mark.slow
@pytest.mark.faults(
    32,
    injected="SIGSTOP of a worker with a stage in its second step, SIGCONT when another has done the stage",
    happens="Prefect calls the stage Crashed, as no sign of life comes, another worker goes on from that step; the "
    "first finds within a minute that the stage is not its own any more, stops it, and hands nothing over",
)
def test_a_worker_that_was_frozen_hands_nothing_over(hosts: Hosts, hold: Path) -> None:
    """What misses its signs of life is played here; the automation itself is in test_two_hosts.py."""
    here, first, second = hosts.host("here"), hosts.host("first"), hosts.host("second")
    with hosts.worker(first, "gpu", **{HOLD: str(hold)}) as worker, hosts.started(here, "run") as run:
        until(lambda: kept(hosts, 2), said(first).read_text)
        thaw = freeze(worker)
        dead = {"type": "CRASHED", "name": "Crashed", "message": "no sign of life"}
        url = f"{hosts.api}/flow_runs/{flow_runs(hosts.api, '/rl-')[-1]['id']}/set_state"
        ask(url, {"state": dead, "force": True})
        with hosts.worker(second, "gpu", CUDA_VISIBLE_DEVICES="1"):  # as the slot of the first is lent on for a minute
            assert run.wait() == 0, said(here).read_text()
        thaw()
        until(lambda: "somebody else has the stage by now" in said(first).read_text(), said(first).read_text)
    assert "the worker was lost: no sign of life" in said(here).read_text()
    assert (steps(first), steps(second)) == ([1, 2], [3])
    assert (here / "dvc.lock").read_bytes() == lock_of_one_machine(hosts)
    assert not [path for path in hosts.exchange.rglob("*") if path.is_file()]


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """A share that is not mounted."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@pytest.mark.slow
def test_an_exchange_that_is_away_for_a_while_costs_nothing(hosts: Hosts, hold: Path) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu", **{HOLD: str(hold)}), hosts.started(here, "run") as run:
        until(lambda: kept(hosts, 2), said(there).read_text)
        with away(hosts.exchange):
            until(lambda: "; trying again" in said(here).read_text(), said(here).read_text)
            hold.unlink()
            until(lambda: "; trying again" in said(there).read_text(), said(there).read_text)  # the answer
        assert run.wait() == 0, said(here).read_text()
    assert steps(there) == [1, 2, 3] and "sent again" not in said(here).read_text()
    assert (here / "dvc.lock").read_bytes() == lock_of_one_machine(hosts)


@pytest.mark.slow
def test_outputs_that_the_dvc_remote_does_not_take_are_made_from_the_last_step(hosts: Hosts, hold: Path) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu", **{HOLD: str(hold)}):
        with hosts.started(here, "run") as run:
            until(lambda: kept(hosts, 2), said(there).read_text)
            with away(hosts.remote / "files"):
                hold.unlink()
                assert run.wait() == 87, said(here).read_text()
        assert "the DVC remote did not take what rl made" in said(here).read_text()
        done = hosts.typed(here, "run")
        assert done.returncode == 0, done.stderr
    assert steps(there) == [1, 2, 3]


@pytest.mark.slow
def test_a_stage_that_is_cancelled_on_prefects_page_is_gone_on_with(hosts: Hosts, hold: Path) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu", **{HOLD: str(hold)}):
        with hosts.started(here, "run") as run:
            until(lambda: kept(hosts, 2), said(there).read_text)
            wanted = {"type": "CANCELLING", "name": "Cancelling"}
            ask(f"{hosts.api}/flow_runs/{flow_runs(hosts.api, '/rl-')[-1]['id']}/set_state", {"state": wanted})
            assert run.wait() == 1, said(here).read_text()
        assert "somebody cancelled it in Prefect" in said(here).read_text()
        hold.unlink()
        done = hosts.typed(here, "run")
        assert done.returncode == 0, done.stderr
    assert steps(there) == [1, 2, 3]
