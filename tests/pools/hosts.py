"""Several hosts on this machine: checkouts, caches and homes of their own; a git remote, a DVC remote and servers."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows import dvc
from flows.prefect_api import ask
from tests.flows.toy import PARAMS, PROGRAM, REPO, git, make_toy
from tests.ports import free_ports


@dataclass
class Hosts:
    """What they share, and nothing else is shared."""

    base: Path
    api: str
    variables: dict[str, str] = field(default_factory=dict)
    """Of every command, on whatever host."""
    program: Sequence[str] = ("-m", "flows.cli")

    @property
    def hub(self) -> Path:
        """The git remote."""
        return self.base / "hub.git"

    @property
    def remote(self) -> Path:
        """The DVC remote."""
        return self.base / "remote"

    @property
    def exchange(self) -> Path:
        return self.remote / "preflow"

    def publish(self, project: Path) -> None:
        """Make a repository the one that all hosts clone."""
        git(self.base, "clone", "-q", "--bare", str(project), str(self.hub))

    @staticmethod
    def of_toy(base: Path, api: str, pools: str, **variables: str) -> "Hosts":
        """Those of a toy with these `pools`, published; no host has it yet."""
        hosts = Hosts(base, api, {"PYTHONPATH": str(REPO)} | variables, ("-c", PROGRAM))
        project = make_toy(base / "origin")
        (project / "params.yaml").write_text(PARAMS + pools)
        git(project, "commit", "-qam", "pools")
        hosts.publish(project)
        return hosts

    def host(self, name: str) -> Path:
        """A checkout on a host of its own; its home is beside it."""
        root = self.base / name / "project"
        git(self.base, "clone", "-q", str(self.hub), str(root))
        done = dvc.call(root, "remote", "add", "--quiet", "--local", "--default", "shared", str(self.remote))
        assert done.returncode == 0, done.stderr
        (self.base / name / "home").mkdir()
        return root

    def environ(self, root: Path, **further: str) -> dict[str, str]:
        own = {"HOME": str(root.parent / "home"), "XDG_CACHE_HOME": str(root.parent / "home" / "cache")}
        ours = ("PREFLOW_HOME", "MLFLOW_TRACKING_URI", "PYTHONUNBUFFERED")
        left = {name: value for name, value in os.environ.items() if name not in ours}
        always = {"PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"}
        return left | own | always | self.variables | further

    def typed(self, root: Path, *arguments: str, **further: str) -> subprocess.CompletedProcess[str]:
        """`preflow ARGUMENTS` on a host, to its end."""
        command = [sys.executable, *self.program, *arguments]
        return subprocess.run(
            command, cwd=root, env=self.environ(root, **further), text=True, capture_output=True, check=False
        )

    @contextmanager
    def started(self, root: Path, *arguments: str, **further: str) -> Iterator[subprocess.Popen[bytes]]:
        """`preflow ARGUMENTS` on a host, ended with all that it started when this is over; prints to `said`."""
        with said(root).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *self.program, *arguments],
                cwd=root,
                env=self.environ(root, **further),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                power_off(process)

    @contextmanager
    def worker(self, root: Path, pool: str, *options: str, **further: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker that has begun to look for stages."""
        with self.started(root, "worker", "--pool", pool, *options, **further) as process:
            until(lambda: "started!" in said(root).read_text(), said(root).read_text)
            yield process


def until(holds: Callable[[], bool], otherwise: Callable[[], str], patience: float = 300.0) -> None:
    """Go on as soon as something holds; a limit only for what would hang for ever."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        threading.Event().wait(0.1)


def said(root: Path) -> Path:
    """What the processes of a host have printed."""
    return root.parent / "said"


def freeze(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    """What a machine that is suspended is to a process and all that it started; what wakes it up."""
    tree = [psutil.Process(process.pid)]
    tree[0].suspend()
    tree += tree[0].children(recursive=True)
    for one in tree[1:]:
        with suppress(psutil.NoSuchProcess):
            one.suspend()

    def thaw() -> None:
        for one in tree:
            with suppress(psutil.NoSuchProcess):  # it had ended, and its parent was not awake to see it
                one.resume()

    return thaw


def power_off(process: subprocess.Popen[bytes]) -> None:
    """What the end of a machine is to a process and all that it started: none gets a word in."""
    with_children = [process.pid, *(child.pid for child in _children(process))]
    for pid in with_children:
        try:
            psutil.Process(pid).suspend()  # so that none sees another go
        except psutil.NoSuchProcess:
            continue
    for pid in with_children:
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextmanager
def served(base: Path, argv: Sequence[str], port: int, health: str, **variables: str) -> Iterator[str]:
    """A server until this is over; its address."""
    url = f"http://127.0.0.1:{port}"
    with (base / f"{port}.log").open("wb") as log:
        environ, command = os.environ | variables, [sys.executable, *argv]
        server = subprocess.Popen(command, cwd=base, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: _answers(url + health) or server.poll() is not None, lambda: f"no {argv[1]}")
            yield url
        finally:
            power_off(server)


@contextmanager
def prefect(base: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    argv = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    variables = {"PREFECT_HOME": str(base / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    with served(base, argv, port, "/api/health", **variables) as url:
        yield f"{url}/api"


@contextmanager
def mlflow(base: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    argv = ("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    store = ("--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}")
    kept = ("--artifacts-destination", str(base / "artifacts"))
    with served(base, (*argv, *store, *kept), port, "/health") as url:
        yield url


def _answers(url: str) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def flow_runs(api: str, name: str) -> list[dict[str, Any]]:
    """Prefect's flow runs whose name has this in it, oldest first."""
    found = ask(f"{api}/flow_runs/filter", {"flow_runs": {"name": {"like_": name}}, "sort": "START_TIME_ASC"})
    return list(found)
