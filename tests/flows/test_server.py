"""The project's Prefect server: whose it is, who finds it, when it ends."""

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from flows import guards, leftovers, server, supervisor
from flows.processes import end_group, spawn
from tasks import owners, tracking
from tasks.tracking import runs


def test_the_server_of_another_copy_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    me = psutil.Process()
    record = {"url": "http://127.0.0.1:1/api", "pid": me.pid, "started": me.create_time()}
    project, copy = tmp_path / "project", tmp_path / "copy"
    (project / ".preflow").mkdir(parents=True)
    path = project / ".preflow" / "server.json"
    path.write_text(json.dumps(record | {"project": str(project / ".preflow")}))
    shutil.copytree(project, copy)
    assert server.running(project) == server.Server(record["url"], me.pid, me.create_time())
    assert server.running(copy) is None
    assert server.stop(copy) is None
    # A stranger that got the number of a dead server is none.
    path.write_text(json.dumps(record | {"project": str(project / ".preflow"), "started": me.create_time() - 100}))
    assert server.running(project) is None


def test_a_server_that_the_user_has_configured_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://example.org/api/")
    for use in (server.start, server.there):
        monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "")
        del os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"]
        assert use(tmp_path) == server.Server("http://example.org/api")
        assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL"  # our own lines say what happens
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    text = 'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://example.org/other"\n'
    (tmp_path / "profiles.toml").write_text(text)
    assert server.start(tmp_path) == server.Server("http://example.org/other")
    assert not (tmp_path / ".preflow").exists()


def test_a_server_is_kept_from_ending_before_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "configured", lambda: "")
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    touched: list[bool] = []
    monkeypatch.setattr(server, "running", lambda root: touched.append((root / ".preflow/prefect/touched").exists()))
    assert server.there(tmp_path) is None
    assert touched == [True]


def test_a_run_that_goes_on_keeps_its_server(tmp_path: Path) -> None:
    assert not supervisor.run_goes_on(tmp_path)
    for lock in ("run.lock", "worktrees/r1.lock"):
        with guards.held(tmp_path / lock, "r1"):
            assert supervisor.run_goes_on(tmp_path)
        assert not supervisor.run_goes_on(tmp_path)


def test_only_dead_runs_of_this_project_are_marked_as_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    tracking.announce(tmp_path, "alive", {})
    dead = owners.this_process() | {"started": 1.0}
    runs.begin(tmp_path, "dead", {}, dead)
    asked: list[str] = []

    def ask(url: str, question: object) -> list[dict[str, str]]:
        asked.append(url)
        return [{"id": f"id-{name}", "name": name} for name in ("alive", "dead", "stranger")]

    monkeypatch.setattr(leftovers, "ask", ask)
    assert leftovers.mark_crashed(tmp_path, "http://x/api") == ["dead"]
    assert asked == ["http://x/api/flow_runs/filter", "http://x/api/flow_runs/id-dead/set_state"]


# Answers like Prefect, at once: what is tried here is when it is ended.
FAKE = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        slots = [{"active": Path("scheduled").exists()}]
        self.wfile.write(json.dumps([{"paused": False, "schedules": slots}]).encode())

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_server_ends_when_idle_unless_a_schedule_needs_it(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "touched").touch()
    record = tmp_path / "server.json"
    record.write_text(json.dumps({"pid": os.getpid()}))
    with (tmp_path / "log").open("w+b") as log:
        fake = spawn([sys.executable, "-c", FAKE], cwd=tmp_path, env=os.environ, output=log)
        try:
            while not (line := (tmp_path / "log").read_text()).endswith("\n"):
                assert fake.poll() is None
            port = int(line)
            (tmp_path / "scheduled").touch()
            assert supervisor.in_use(port)
            (tmp_path / "scheduled").unlink()
            assert not supervisor.in_use(port)
            assert supervisor.watch(fake, tmp_path, port, idle_seconds=0.1)
            assert not record.exists()
            assert supervisor.watch(fake, tmp_path, port, idle_seconds=0.1)  # not ours any more: also a reason
        finally:
            end_group(fake)
        assert supervisor.in_use(port)  # no answer: better keep it than end what somebody needs
        assert not supervisor.watch(fake, tmp_path, port, idle_seconds=0.1)
