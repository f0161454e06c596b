"""Stages as containers of a Docker host: Prefect's own worker asks for them, and what they run is done here."""

import json
from pathlib import Path

import pytest

from flows.prefect_api import ask
from tests.pools.daemon import daemon
from tests.pools.hosts import Hosts, flow_runs, prefect

pytest.importorskip("prefect_docker", reason="absent; pip install -e '.[docker]' -c constraints.txt")

GPUS = "device_requests=[{driver: nvidia, count: -1, capabilities: [[gpu]]}]"


def test_a_stage_is_done_in_a_container_with_passwords_from_a_file(tmp_path: Path) -> None:
    password = "nobody:open sesame"
    with prefect(tmp_path) as api, daemon(tmp_path / "docker") as docker:
        pools = "pools: {rl: {pool: box, job_variables: {memory: 64g}}}\n"
        hosts = Hosts.of_toy(tmp_path, api, pools, PREFECT_API_AUTH_STRING=password)
        secrets = tmp_path / "stage.env"
        told = {"REPOSITORY": hosts.hub, "REMOTE": hosts.remote}
        lines = [f"PREFLOW_{name}={value}\n" for name, value in told.items()]
        secrets.write_text("".join([*lines, f"PREFECT_API_AUTH_STRING={password}\n"]))
        own = {"api_url": api, "remote": hosts.remote, "secrets": secrets}
        variables = [word for name, value in own.items() for word in ("--job-variable", f"{name}={value}")]
        here, there = hosts.host("here"), hosts.host("there")
        options = ("--type", "docker", "--job-variable", GPUS, *variables)
        with hosts.worker(there, "box", *options, DOCKER_HOST=docker.url):
            done = hosts.typed(here, "run")
        assert done.returncode == 0, done.stderr + docker.said()
        assert "rl works" in done.stderr and "rl works" in docker.said()
        (asked,) = docker.containers
        assert (asked["Image"], asked["HostConfig"]["Memory"]) == ("preflow-gpu-worker:0.1.0", 64 * 2**30)
        (devices,) = asked["HostConfig"]["DeviceRequests"]
        assert (devices["Driver"], devices["Count"]) == ("nvidia", -1)
        (pool,) = ask(f"{api}/work_pools/filter", {"work_pools": {"name": {"any_": ["box"]}}})
        assert pool["concurrency_limit"] == 1
        assert ask(f"{api}/v2/concurrency_limits/filter", {}) == [], "stages in containers take no slot"
        assert "sesame" not in json.dumps([pool, asked, flow_runs(api, "/rl-")])
