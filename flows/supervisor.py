"""Keeps one Prefect server while it is of use, then ends it: `python -m flows.supervisor HOME PORT IDLE_SECONDS`.

Of use means: touched lately (`HOME/prefect/touched`; a run does so all the time), or some deployment has an active
schedule, or a run holds its lock. It imports little, as it lives for long beside trainings.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.prefect_api import ask
from flows.processes import end_group, spawn

_SERVE = """
import gc, sys
gc.set_threshold(10_000)  # what its imports make stays, and need not be looked through again for every 700 objects more
import uvicorn
from prefect.server.api.server import create_app
uvicorn.run(create_app(final=True), host="127.0.0.1", port=int(sys.argv[1]), timeout_keep_alive=5, log_level="warning")
"""
_RESTARTS = 3


def main(folder: Path, port: int, idle_seconds: float) -> None:
    """Serve until idle, asked to end (SIGTERM), or the project has gone or has another server."""
    signal.signal(signal.SIGTERM, _end)
    for _ in range(1 + _RESTARTS):
        server = spawn([sys.executable, "-c", _SERVE, str(port)], cwd=folder, env=os.environ, output=sys.stdout.buffer)
        try:
            if watch(server, folder, port, idle_seconds):
                return
        finally:
            end_group(server, patience=5.0)
        print(f"preflow: the Prefect server ended with {server.returncode}; starting it again", flush=True)


def watch(server: subprocess.Popen[bytes], folder: Path, port: int, idle_seconds: float) -> bool:
    """True when the server is no longer wanted, False when it has ended by itself."""
    while server.poll() is None:
        time.sleep(min(2.0, idle_seconds / 4))
        if not _still_ours(folder):
            return True
        idle = time.time() - (folder / "prefect" / "touched").stat().st_mtime
        if idle > idle_seconds and not in_use(port) and not run_goes_on(folder):
            (folder / "server.json").unlink(missing_ok=True)
            return True
    return False


def _still_ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "server.json").read_text(encoding="utf-8"))["pid"] == os.getpid())
    except FileNotFoundError:
        return False
    except (ValueError, KeyError):
        return True  # being written


def run_goes_on(folder: Path) -> bool:
    """Whether a run holds its lock, also one that has not touched anything for long, as after a suspend."""
    for path in (folder / "run.lock", *(folder / "worktrees").glob("*.lock")):
        with suppress(FileNotFoundError), path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def in_use(port: int) -> bool:
    """Whether a schedule needs the server. In doubt it does: it answers 503 while it is busy."""
    url = f"http://127.0.0.1:{port}/api"
    try:
        deployments = ask(f"{url}/deployments/filter", {})
        return any(not item["paused"] and any(slot["active"] for slot in item["schedules"]) for item in deployments)
    except (OSError, ValueError, KeyError):
        return True


def _end(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
