"""`preflow schedule serve`, with what Prefect is to it played: tests of schedules have the real one."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.processes import spawn
from flows.schedule import serve
from tests.flows.toy import REPO, gone
from tests.pools.hosts import until

# Prefect's worker, as far as `flows.prefect_worker` looks at it: a flow run is a process in a session of its own.
# Whether it is at work is asked only when it is to end: a `late` flow run begins then; a file tells of the third time.
WORKER = """
import asyncio, runpy, sys, types
from pathlib import Path

class Limiter:
    taken = looks = 0

    @property
    def borrowed_tokens(self):
        self.looks += 1
        if self.looks == 3:
            Path("looked").touch()
        return self.taken

class ProcessWorker:
    def __init__(self, **told):
        self.limiter, self.running = Limiter(), None

    async def get_and_submit_flow_runs(self):
        if self.running is None:
            self.limiter.taken = 1
            self.running = asyncio.ensure_future(self.run())
        return []

    async def run(self):
        if late:
            Path("taken").touch()
        while late and not self.limiter.looks:
            await asyncio.sleep(0.05)
        argv = [sys.executable, "-c", firing, "prefect.engine"]
        made = await asyncio.create_subprocess_exec(*argv, start_new_session=True)
        await made.wait()
        self.limiter.taken = 0

    async def start(self):
        while True:
            await self.get_and_submit_flow_runs()
            await asyncio.sleep(0.05)

firing, late = sys.argv.pop(1), sys.argv.pop(1) == "late"
sys.modules["prefect.workers.process"] = types.SimpleNamespace(ProcessWorker=ProcessWorker)
runpy.run_module("flows.schedule.serve", run_name="__main__")
"""
# A second SIGTERM, while it saves, ends it.
SAVES = """
import os, signal, time
from pathlib import Path

def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while not Path("looked").exists():
        time.sleep(0.05)
    Path("saved").touch()
    raise SystemExit

signal.signal(signal.SIGTERM, save)
Path(".taken").write_text(str(os.getpid()))
Path(".taken").rename("taken")
while True:
    time.sleep(0.05)
"""
HANGS = SAVES.replace("save)", "signal.SIG_IGN)")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of a service whose server others keep."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setattr("flows.server.wait", lambda *told: None)
    return []


Served = Callable[..., int]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Iterator[Served]:
    """Serves until a firing is taken, and then ends; the process of that firing."""
    cancel, taken = threading.Event(), tmp_path / "taken"

    def stop() -> None:
        until(taken.exists, lambda: "nothing was taken")
        cancel.set()

    def call(firing: str, late: bool = False) -> int:
        def started(argv: list[str], **how: object) -> object:
            own = [sys.executable, "-c", WORKER, firing, "late" if late else ""]
            return spawn([*own, *argv[3:]], **how)  # type: ignore[arg-type]

        monkeypatch.setattr(serve, "spawn", started)
        threading.Thread(target=stop).start()
        serve.serve(tmp_path, 1, cancel, said.append)
        return int(taken.read_text())

    yield call
    if (pid := taken.read_text()) and not gone(int(pid)):
        psutil.Process(int(pid)).kill()


@pytest.mark.parametrize("late", [False, True])
def test_a_firing_saves_what_it_has_before_the_service_ends(served: Served, tmp_path: Path, late: bool) -> None:
    """Also one that was taken, and had not begun."""
    firing = served(SAVES, late)
    assert gone(firing) and (tmp_path / "saved").exists()


def test_a_firing_that_does_not_end_is_killed(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_GRACE", 1.0)
    firing = served(HANGS)
    until(lambda: gone(firing), lambda: "it goes on")


def test_a_worker_of_a_server_that_others_keep_has_a_log_in_a_fresh_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Only a server of the project's own has made the folder that the log is in."""
    cancel = threading.Event()

    def started(argv: list[str], **how: object) -> object:
        worker = spawn(["/bin/echo", *argv[-2:]], **how)  # type: ignore[arg-type]
        worker.wait()
        cancel.set()
        return worker

    monkeypatch.setattr(serve, "spawn", started)
    serve.serve(tmp_path, 3, cancel, said.append)
    (log,) = tmp_path.rglob("worker.log")
    assert said == [f"serving the schedules of http://127.0.0.1:1; log: {log}"]
    assert log.read_text(encoding="utf-8").split()[-1] == "3"
