"""The pins work together: a real Prefect server takes a work pool and turns a schedule into runs.

Two of the breakages that constraints.txt guards against show nowhere else: newer fastapi answers 422 to work pools, and
with SQLAlchemy 2.1 the server looks healthy while its scheduler fails in every loop and creates no run.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.environment import VARIABLES
from tasks import variables
from tests.ports import free_ports

PATIENCE = 90  # seconds; an idle machine needs 10


def until(what: str, attempt: Callable[[], Any], log: Path) -> Any:
    """The first true answer; busy and not-yet-listening servers are asked again."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if answer := attempt():
                return answer
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise AssertionError(f"{what}: {error.code} {error.read().decode()[:500]}") from error
        time.sleep(0.25)
    raise AssertionError(f"{what}: not within {PATIENCE} s; the server's log ends with\n{log.read_text()[-3000:]}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of its own: port, home and database belong to this test."""
    (port,), log = free_ports(1), tmp_path / "server.log"
    settings = (
        variables.VARIABLES
        | VARIABLES
        | {
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        }
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=clean | settings, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{port}/api", log
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_server_makes_a_work_pool_and_runs_from_a_schedule(server: tuple[str, Path]) -> None:
    url, log = server

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    until("the server answers", lambda: ask("/health"), log)
    pool = until("a work pool", lambda: ask("/work_pools/", {"name": "smoke", "type": "process"}), log)
    assert pool["name"] == "smoke"
    workers = until("its workers", lambda: [ask("/work_pools/smoke/workers/filter", {"limit": None})], log)
    assert workers == [[]]
    flow = until("a flow", lambda: ask("/flows/", {"name": "smoke"}), log)
    body = {
        "name": "hourly",
        "flow_id": flow["id"],
        "work_pool_name": "smoke",
        "schedules": [{"active": True, "schedule": {"interval": 3600}}],
    }
    deployment = until("a deployment", lambda: ask("/deployments/", body), log)
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    runs = until("scheduled runs", lambda: ask("/flow_runs/filter", wanted), log)
    assert {run["state"]["type"] for run in runs} == {"SCHEDULED"}
    assert {run["work_pool_name"] for run in runs} == {"smoke"}
