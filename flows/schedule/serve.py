"""Fires schedules: keeps the project's Prefect server up and a worker of its process pool, until it is ended.

A worker gives up on a server that is away for long, and ours comes back under another address: so a worker that ends,
or whose server has moved, is replaced.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from flows import prefect_worker, server
from flows.processes import SAVING, spawn
from flows.schedule.schedule import pool_of
from rlhf.errors import DependencyDown
from tasks.journal import home

_GRACE = 2 * SAVING  # seconds that a retrain gets to save its step and to close its books


def serve(root: Path, limit: int, cancel: threading.Event, say: Callable[[str], None]) -> None:
    """Serve until `cancel`; a retrain that goes on then is stopped, and the next firing goes on from there.

    Args:
        limit: firings side by side; further ones wait.
    """
    log = home(root) / "prefect" / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)  # only a server of our own makes it
    while not cancel.is_set():
        here = server.start(root)
        try:
            server.wait(here, root, cancel)
        except DependencyDown as error:
            say(f"{error}; trying again")
            cancel.wait(5.0)
            continue
        say(f"serving the schedules of {here.page}; log: {log}")
        with log.open("ab") as output:
            argv = [sys.executable, "-m", "flows.schedule.serve", pool_of(root), str(limit)]
            worker = spawn(argv, cwd=root, env=os.environ, output=output)
            try:
                while worker.poll() is None and not cancel.wait(1.0):
                    if here.ours and server.running(root) != here:
                        break
                    server.touch(root)
            finally:
                prefect_worker.end(worker, _GRACE)
        if not cancel.is_set():
            say("the worker or its server has ended; starting again")
            cancel.wait(1.0)


def _worker(pool: str, limit: int) -> None:
    """In a process of its own."""
    from prefect.workers.process import ProcessWorker

    prefect_worker.take(ProcessWorker(work_pool_name=pool, name="preflow", limit=limit))


if __name__ == "__main__":
    _worker(sys.argv[1], int(sys.argv[2]))
