"""Stages as Jobs of a cluster: Prefect's own worker posts them, and what their container runs is done here.

The container is a process in an empty folder with the variables of the Job alone: no checkout, home or setting of ours.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.pools.serving import OBSERVED
from flows.prefect_api import ask
from flows.workspace import git as plumbing
from tests.flows.toy import PARAMS
from tests.pools.cluster import Cluster, Object, cluster, variables
from tests.pools.hosts import Hosts, flow_runs, said, until

pytest.importorskip("prefect_kubernetes", reason="absent; pip install -e '.[kubernetes]' -c constraints.txt")

POOLS = "pools: {sft: jobs, rl: {pool: jobs, job_variables: {gpus: 4}}}\n"
PASSWORD = "nobody:open sesame"
OPTIONS = ("--type", "kubernetes", "--job-variable", "gpus=1", "--job-variable", "image=registry.example.org/toy:1")


@pytest.fixture
def hosts(tmp_path: Path, api: str) -> Hosts:
    return Hosts.of_toy(tmp_path, api, POOLS, PREFECT_API_AUTH_STRING=PASSWORD)


@pytest.fixture
def kubernetes(hosts: Hosts) -> Iterator[Cluster]:
    secrets = {
        "preflow": {"PREFLOW_REPOSITORY": str(hosts.hub), "PREFECT_AUTH_STRING": PASSWORD},
        "preflow-stage": {"PREFLOW_REMOTE": str(hosts.remote)},
    }
    with cluster(hosts.base / "cluster", secrets) as made:
        yield made


def container(job: Object) -> Object:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_lock_is_that_of_one_machine_and_no_password_is_told(hosts: Hosts, kubernetes: Cluster) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "jobs", *OPTIONS, **variables(kubernetes)) as worker:
        done = hosts.typed(here, "run")
        below = psutil.Process(worker.pid).children(recursive=True)
        assert {one.environ().get(OBSERVED) for one in below} == {"preflow"}, "not the whole cluster"
        assert done.returncode == 0, done.stderr + "".join(pod.said for pod in kubernetes.pods)
    assert "sft works" in done.stderr, "what a stage prints there is said here"
    assert [container(pod.job)["resources"]["limits"]["nvidia.com/gpu"] for pod in kubernetes.pods] == [1, 4]
    assert {container(pod.job)["image"] for pod in kubernetes.pods} == {"registry.example.org/toy:1"}
    pool = ask(f"{hosts.api}/work_pools/filter", {"work_pools": {"name": {"any_": ["jobs"]}}})
    assert "sesame" not in json.dumps([pool, *(pod.job for pod in kubernetes.pods)])
    alone = hosts.host("alone")
    (alone / "params.yaml").write_text(PARAMS)
    assert hosts.typed(alone, "run").returncode == 0
    assert (here / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    assert not [path for path in hosts.exchange.rglob("*") if path.is_file()]
    assert "preflow-work" not in plumbing(hosts.hub, "for-each-ref")


@pytest.mark.slow
def test_a_pod_that_is_evicted_hands_its_stage_on_and_one_that_is_cancelled_ends(
    hosts: Hosts, kubernetes: Cluster
) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.started(here, "run", "--set", "rl.mode=hang") as run:
        with hosts.worker(there, "jobs", *OPTIONS, **variables(kubernetes)) as worker:
            until(lambda: len(kubernetes.pods) == 2 and "rl works" in kubernetes.pods[1].said, said(here).read_text)
            evicted = kubernetes.pods[1]
            evicted.process.terminate()
            until(lambda: len(kubernetes.pods) == 3 and "rl works" in kubernetes.pods[2].said, said(here).read_text)
            assert "rl of run" in evicted.said and ": stopped" in evicted.said
            worker.terminate()
            assert worker.wait() == 0, said(there).read_text()
        last = flow_runs(hosts.api, "/rl-")[-1]  # which needs no worker to go on, nor to be cancelled
        wanted = {"type": "CANCELLING", "name": "Cancelling"}
        ask(f"{hosts.api}/flow_runs/{last['id']}/set_state", {"state": wanted})
        assert run.wait() == 1, said(here).read_text()
    assert "somebody cancelled it in Prefect" in said(here).read_text()
    assert "sent again, 1 of 3 times" in said(here).read_text()
    assert [one["state"]["type"] for one in flow_runs(hosts.api, "/rl-")[-2:]] == ["CRASHED", "CANCELLED"]


def test_a_pod_that_waits_is_told_of(hosts: Hosts, kubernetes: Cluster) -> None:
    """With a worker that has been there, and Prefect's observer, which says of a Pod that it waits, played here."""
    here, before = hosts.host("here"), len(flow_runs(hosts.api, "/sft-"))
    with hosts.worker(hosts.host("there"), "jobs", *OPTIONS, **variables(kubernetes)):
        pass
    with hosts.started(here, "run") as run:
        until(lambda: len(flow_runs(hosts.api, "/sft-")) > before, said(here).read_text)
        url = f"{hosts.api}/flow_runs/{flow_runs(hosts.api, '/sft-')[-1]['id']}/set_state"
        waits = {"type": "PENDING", "name": "InfrastructurePending", "message": "Kubernetes pod is pending."}
        ask(url, {"state": waits, "force": True})
        line = "sft: waits in pool jobs: InfrastructurePending: Kubernetes pod is pending."
        until(lambda: line in said(here).read_text(), said(here).read_text)
        ask(url, {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True})
        assert run.wait() == 1, said(here).read_text()
    assert said(here).read_text().count(line) == 1


def test_what_does_not_fit_says_what_would(hosts: Hosts) -> None:
    here = hosts.host("here")
    for name, kind in (("far", "ecs"), ("near", "process")):
        ask(f"{hosts.api}/work_pools/", {"name": name, "type": kind})
    far = hosts.typed(here, "worker", "--pool", "far", *OPTIONS)
    assert far.returncode == 1 and "is of type ecs; stages go to pools of type process, docker, kub" in far.stderr
    near = hosts.typed(here, "worker", "--pool", "near", *OPTIONS)
    assert near.returncode == 1 and "`preflow worker --pool near --type process`" in near.stderr
    unheard = hosts.typed(here, "worker", "--pool", "jobs", "--type", "kubernetes", "--job-variable", "gpu=1")
    assert unheard.returncode == 2 and "has no job variable gpu; it has namespace, image, gpus," in unheard.stderr
    wrong = hosts.typed(here, "worker", "--pool", "jobs", "--type", "kubernetes", "--job-variable", "gpus=many")
    assert wrong.returncode == 2 and "job variable gpus: 'many' is not of type 'integer'" in wrong.stderr
    (here / "params.yaml").write_text(PARAMS + "pools: {rl: {pool: near, job_variables: {gpus: 4}}}\n")
    run = hosts.typed(here, "run")
    assert run.returncode == 2 and "work pool near has no job variable gpus; it has" in run.stderr
