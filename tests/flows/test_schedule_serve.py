"""`preflow schedule serve`, but for the worker itself: tests of schedules start that."""

import threading
from pathlib import Path

import pytest

from flows.processes import spawn
from flows.schedule import serve


def test_a_worker_of_a_server_that_others_keep_has_a_log_in_a_fresh_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a server of the project's own has made the folder that the log is in."""
    cancel = threading.Event()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr("flows.server.wait", lambda *told: None)

    def started(argv: list[str], **how: object) -> object:
        worker = spawn(["/bin/echo", *argv[-2:]], **how)  # type: ignore[arg-type]
        worker.wait()
        cancel.set()
        return worker

    monkeypatch.setattr(serve, "spawn", started)
    said: list[str] = []
    serve.serve(tmp_path, 3, cancel, said.append)
    (log,) = tmp_path.rglob("worker.log")
    assert said == [f"serving the schedules of http://127.0.0.1:1; log: {log}"]
    assert log.read_text(encoding="utf-8").split()[-1] == "3"
