"""Stages of a toy on workers of other hosts: the run is what it would be here, and nothing is left lying about."""

import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.prefect_api import ask
from flows.workspace import git as plumbing
from tests.flows.toy import PARAMS, git
from tests.pools.hosts import Hosts, flow_runs, power_off, said, until

POOLS = "pools: {sft: gpu, rl: gpu}\n"


@pytest.fixture
def hosts(tmp_path: Path, api: str) -> Hosts:
    """A toy whose `sft` and `rl` go to pool `gpu`, published; no host has it yet."""
    return Hosts.of_toy(tmp_path, api, POOLS)


def _is_stage(process: psutil.Process, name: str) -> bool:
    return process.cmdline()[:3] == ["python", "stage.py", name]


def _goes_on(flow_run: dict[str, Any]) -> bool:
    return bool(flow_run["state"]["type"] == "RUNNING")


def lock_without_pools(hosts: Hosts) -> bytes:
    alone = hosts.host("alone")
    (alone / "params.yaml").write_text(PARAMS)
    done = hosts.typed(alone, "run")
    assert done.returncode == 0, done.stderr
    return (alone / "dvc.lock").read_bytes()


def test_the_lock_is_that_of_one_machine_and_nothing_is_left(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu"):
        done = hosts.typed(here, "run")
        assert done.returncode == 0, done.stderr
        assert "sft works" in done.stderr, "what a stage prints there is said here"
        again = hosts.typed(here, "run")
        assert again.returncode == 0 and "5 cached" in again.stdout, again.stderr
        assert said(there).read_text().count(": begins") == 2, "what is unchanged goes nowhere"
        elsewhere = hosts.typed(here, "run", "--set", "rl.kl_coef=0.1")
        back = hosts.typed(here, "run", "--set", "rl.kl_coef=5e-2")
        assert elsewhere.returncode == back.returncode == 0, elsewhere.stderr + back.stderr
        assert said(there).read_text().count(": begins") == 3, "and what the run cache has neither"
    assert (here / "dvc.lock").read_bytes() == lock_without_pools(hosts)
    assert not [path for path in hosts.exchange.rglob("*") if path.is_file()]
    assert "preflow-work" not in plumbing(hosts.hub, "for-each-ref")
    assert not [path for path in (there / ".preflow").rglob("*") if path.suffix != ".lock" and path.is_file()]


@pytest.mark.slow
def test_what_fails_there_fails_here_with_its_reason(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu"):
        done = hosts.typed(here, "run", "--set", "rl.mode=refuse")
    assert done.returncode == 3
    assert "rows.jsonl:7 has no prompt" in done.stdout


@pytest.mark.slow
def test_a_worker_that_is_ended_hands_its_stage_on(hosts: Hosts) -> None:
    here, there, other = hosts.host("here"), hosts.host("there"), hosts.host("other")
    with hosts.worker(there, "gpu") as worker, hosts.started(here, "run", "--set", "rl.mode=hang") as run:
        until(lambda: "rl works" in said(there).read_text(), said(there).read_text)
        (stage,) = (one for one in psutil.Process(worker.pid).children(recursive=True) if _is_stage(one, "rl"))
        worker.terminate()
        assert worker.wait() == 0, said(there).read_text()
        assert not stage.is_running() and "rl of run" in said(there).read_text().splitlines()[-1]
        with hosts.worker(other, "gpu"):
            until(lambda: "rl works" in said(other).read_text(), said(here).read_text)
            run.terminate()
            assert run.wait() == 85, said(here).read_text()
    assert "sent again, 1 of 3 times" in said(here).read_text()
    (name,) = set(re.findall(r"run (\S+) rl.mode=hang", said(here).read_text()))
    states = [one["state"]["type"] for one in flow_runs(hosts.api, f"{name}/rl-")]
    assert states == ["CRASHED", "CANCELLED"]


@pytest.mark.slow
def test_a_stage_whose_run_is_over_is_stopped(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu"):
        with hosts.started(here, "run", "--set", "rl.mode=hang") as run:
            until(lambda: "rl works" in said(there).read_text(), said(there).read_text)
            power_off(run)
        (dead,) = (one for one in flow_runs(hosts.api, "") if "/" not in one["name"] and _goes_on(one))
        over = {"type": "CRASHED", "name": "Crashed", "message": "as the next run of that project finds"}
        ask(f"{hosts.api}/flow_runs/{dead['id']}/set_state", {"state": over, "force": True})
        until(lambda: ": stopped" in said(there).read_text(), said(there).read_text)


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ("pools: {rl: nobody}\n", "no worker has ever served pool nobody"),
        ("pools: {rll: gpu}\n", "pools names rll, and there is no such stage; there are collect, sft, dpo, rl, gate"),
    ],
)
def test_what_cannot_be_sent_says_what_to_do(hosts: Hosts, pools: str, words: str) -> None:
    here = hosts.host("here")
    (here / "params.yaml").write_text(PARAMS + pools)
    done = hosts.typed(here, "run")
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.slow
def test_what_is_to_run_again_runs_there_again(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu"):
        assert hosts.typed(here, "run").returncode == 0
        before = (here / "dvc.lock").read_bytes()
        done = hosts.typed(here, "run", "--rerun")
        assert done.returncode == 0, done.stderr
    assert said(there).read_text().count("rl of run") == 4, "twice, beginning and end"
    assert [one["state"]["type"] for one in flow_runs(hosts.api, "/rl-")][-2:] == 2 * ["COMPLETED"]
    assert (here / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_files_that_only_this_host_has_are_not_sent(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    text = (
        (here / "dvc.yaml")
        .read_text()
        .replace("    - data/collect\n    params", "    - data/collect\n    - data/inbox\n    params")
    )
    assert "data/inbox" in text
    (here / "dvc.yaml").write_text(text)
    (here / "data/inbox").mkdir(parents=True)
    (here / "data/inbox/rows.jsonl").write_text("{}\n")
    with hosts.worker(there, "gpu"):
        done = hosts.typed(here, "run")
    assert done.returncode == 3
    assert "sft reads data/inbox/rows.jsonl, which only this host has" in done.stderr


def test_a_worker_says_what_it_lacks(hosts: Hosts) -> None:
    there = hosts.host("there")
    done = hosts.typed(there, "worker", "--pool", "gpu", PREFECT_API_URL="")
    assert done.returncode == 1 and "PREFECT_API_URL is not set" in done.stderr
    git(there, "remote", "remove", "origin")
    done = hosts.typed(there, "worker", "--pool", "gpu")
    assert done.returncode == 1 and "has no git remote" in done.stderr
