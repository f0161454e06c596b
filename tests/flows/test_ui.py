"""`preflow ui`: both pages by one command, over the project's own database and Prefect server, and gone together."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import server
from tests.flows.toy import REPO
from tests.ports import free_ports

OWN = ("PREFECT_API_URL", "PREFLOW_HOME", "MLFLOW_TRACKING_URI", "PREFLOW_PREFECT_API_URL")


def ui(root: Path, *ports: int, **variables: str) -> subprocess.Popen[str]:
    options = [f"{name}={port}" for name, port in zip(("--port", "--prefect-port"), ports)]
    environ = {name: value for name, value in os.environ.items() if name not in OWN}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui", *options],
        cwd=root,
        env={**environ, "PYTHONPATH": str(REPO), "PREFECT_HOME": str(root / "home"), **variables},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    """What it says until it is open; interrupted and waited for at the end of the block."""
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        said.extend(process.communicate()[1].splitlines())


def answers(url: str, body: dict[str, object] | None = None) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "text/html"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: bytes = answer.read()
        return found


@pytest.mark.e2e
def test_both_pages_open_and_go_together(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    port, prefect_port = free_ports(2)
    process = ui(toy, port, prefect_port)
    with ended(process) as said:
        assert f"MLflow:  http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning\n" in said
        assert f"Prefect: http://127.0.0.1:{prefect_port}/runs\n" in said
        answers(f"http://127.0.0.1:{port}/")
        answers(f"http://127.0.0.1:{prefect_port}/runs")
        # A run that is started now finds this server, and this database is the project's.
        assert server.running(toy) and server.running(toy).url == f"http://127.0.0.1:{prefect_port}/api"  # type: ignore[union-attr]
        found = answers(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", {"max_results": 5})
        assert (toy / "mlruns" / "mlflow.db").exists() and b"Default" in found
        # Once is enough.
        second = ui(toy, *free_ports(2))
        assert (second.communicate()[1].splitlines()[-1].partition(";")[0], second.returncode) == (
            f"preflow: the pages of this project are open already, Prefect's at http://127.0.0.1:{prefect_port}",
            75,
        )
        assert server.running(toy)
    assert process.returncode == 0
    assert server.running(toy) is None
    for each in (port, prefect_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", each)) != 0


@pytest.mark.parametrize(("taken", "variable"), [(0, "PORT"), (1, "PREFECT_PORT")])
def test_a_taken_port_is_named(toy: Path, taken: int, variable: str) -> None:
    ports = free_ports(2)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", ports[taken]))
        holder.listen()
        process = ui(toy, *ports)
        said = process.communicate()[1]
    assert process.returncode == 75
    assert f"port {ports[taken]}, wanted for" in said and f"make ui {variable}={ports[taken] + 1}" in said
    assert not (toy / ".preflow" / "server.json").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_another_port_than_that_of_a_server_that_is_up_is_said_to_be_of_no_use(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    up = server.start(toy)
    os.environ.clear()
    os.environ.update(before)
    port, other = free_ports(2)
    try:
        with ended(ui(toy, port, other)) as said:
            use = f"Prefect is up already at {up.page}, so port {other} is not used; `preflow stop` ends that server\n"
            assert use in said and f"Prefect: {up.page}/runs\n" in said
        with ended(ui(toy, port)) as said:
            assert not any("not used" in line for line in said)
    finally:
        server.stop(toy)


def test_servers_that_are_named_are_shown_and_not_started(toy: Path, api: str) -> None:
    process = ui(toy, MLFLOW_TRACKING_URI="http://127.0.0.1:9/", PREFECT_API_URL=api)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 0
    shown = "http://127.0.0.1:9/#/experiments?workflowType=machine_learning"
    assert said[1:] == [f"MLflow:  {shown}", f"Prefect: {api.removesuffix('/api')}/runs"]
    assert not (toy / "mlruns").exists() and not (toy / ".preflow" / "server.json").exists()
