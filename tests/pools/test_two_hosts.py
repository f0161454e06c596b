"""The real pipeline, all thirteen stages, on workers of other hosts: the bytes of one machine, also where one dies."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.kills.checkout import SHORT
from flows.pools.orders import WINDOW
from tasks.graph import load_graph
from tests.pools.hosts import Hosts, flow_runs, mlflow, power_off, prefect, said, until
from tests.test_end_to_end import copied, sh

TRAINING = ("base", "sft", "reward_model", "rejection_sampling", "rl", "dpo")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    base = tmp_path_factory.mktemp("hosts")
    with prefect(base) as api, mlflow(base) as tracking:
        hosts = Hosts(base, api, {"MLFLOW_TRACKING_URI": tracking})
        hosts.publish(copied(base / "origin", SHORT))
        yield hosts


@pytest.fixture(scope="module")
def alone(hosts: Hosts) -> Path:
    """A host that did the whole run by itself."""
    root = hosts.host("alone")
    done = hosts.typed(root, "run")
    assert done.returncode == 0, done.stderr
    return root


def send(root: Path, pools: dict[str, str]) -> None:
    """Say in params.yaml which stages go where."""
    path = root / "params.yaml"
    text = path.read_text()
    assert "\npools: {}\n" in text
    path.write_text(text.replace("\npools: {}\n", f"\npools: {json.dumps(pools)}\n"))


def test_cpu_stages_on_one_host_and_training_on_another(hosts: Hosts, alone: Path) -> None:
    here, cpus, gpus = hosts.host("run"), hosts.host("cpus"), hosts.host("gpus")
    stages = list(load_graph(here).stages)
    send(here, {name: "gpu" if name in TRAINING else "cpu" for name in stages})
    with hosts.worker(cpus, "cpu"), hosts.worker(gpus, "gpu"):
        done = hosts.typed(here, "run", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {stage["state"] for stage in report["stages"]} == {"ran"}
    did = {host.parent.name: re.findall(r"(\w+) of run \S+: begins", said(host).read_text()) for host in (cpus, gpus)}
    assert sorted(did["gpus"]) == sorted(TRAINING) and sorted(did["cpus"] + did["gpus"]) == sorted(stages)
    assert (here / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    assert set(report["mlflow"]["stages"]) == set(stages), "MLflow has every stage, whoever did it"
    assert report["costs"]["rl"]["tokens_trained"] > 0, "and what it took"
    assert hosts.typed(here, "verify").returncode == 0


@pytest.mark.faults(
    32,
    injected="kill -9 of a worker with the stage `rl` below it, after a checkpoint of it was sent",
    happens="Prefect calls the stage Crashed 90 s after its last sign of life, the run sends it again, another worker "
    "goes on from the checkpoint, and dvc.lock is that of an unbroken run",
)
@pytest.mark.faults(
    33,
    injected="kill -9 of a worker whose stage has the host's slot, lent by Prefect",
    happens="Prefect takes the slot back after a minute, and the next stage on that host begins",
)
def test_killed_with_its_worker_it_goes_on_elsewhere(hosts: Hosts, alone: Path) -> None:
    here, first, second = hosts.host("again"), hosts.host("first"), hosts.host("second")
    before_rl(alone, here)
    send(here, {"rl": "spot"})
    with hosts.started(here, "run") as run:
        with hosts.worker(first, "spot") as worker:
            until(lambda: any(hosts.exchange.glob("checkpoints/rl-*/*/index.json")), said(first).read_text, 900)
            power_off(worker)
        with hosts.worker(second, "spot"):
            assert run.wait(1200) == 0, said(here).read_text()
    text = said(here).read_text()
    assert f"no sign of life for {WINDOW} s" in text and "rl: sent again, 1 of 3 times" in text
    dead, well = flow_runs(hosts.api, "/rl-")[-2:]
    assert (dead["state"]["type"], well["state"]["type"]) == ("CRASHED", "COMPLETED")
    (journal,) = (here / ".preflow/journal").glob("*/rl-2/events.jsonl")
    steps = [event["step"] for event in events(journal) if event["event"] == "metrics"]
    assert min(steps) > 1, "it went on, and did not begin anew"
    assert (here / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    assert not [path for path in hosts.exchange.rglob("*") if path.is_file()], "nobody needs the checkpoint any more"


def before_rl(done: Path, root: Path) -> None:
    """Give a host all that another has made, but for `rl` and what comes after it."""
    shutil.copytree(done / ".dvc/cache/files", root / ".dvc/cache/files")
    text = (done / "dvc.lock").read_text()
    for name in load_graph(root).descendants({"rl"}):
        text = re.sub(rf"^  {name}:\n(?:   .*\n)*", "", text, flags=re.MULTILINE)
    (root / "dvc.lock").write_text(text)
    sh(root, "git", "add", "-f", "dvc.lock")


def events(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]
