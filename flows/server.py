"""The project's own Prefect server: started when none is configured, found again, and ended without leaving a trace.

Home, database and log are in `.preflow/prefect/`; `.preflow/server.json` says where it listens and whose it is. What is
started is `flows.supervisor`, in a session of its own, so it survives the end of a run, however that ends.
"""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from rlhf.errors import DependencyDown, Preempted
from tasks.in_time import in_time
from tasks.journal import alive, home

IDLE_SECONDS = 1800
_OWN = "PREFLOW_PREFECT_API_URL"  # tells what `start` has set from what the user has
# Our own lines say what happens; Prefect's go to its server, where they can be read run by run.
_QUIET = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


@dataclass(frozen=True)
class Server:
    """A Prefect API to talk to."""

    url: str
    """Ends in /api."""
    pid: int = 0
    """Of our supervisor; 0 for a server that the user has configured."""
    started: float = 0.0

    @property
    def ours(self) -> bool:
        return self.pid != 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 80

    @property
    def page(self) -> str:
        """For a browser."""
        return self.url.removesuffix("/api")


def start(root: Path, idle_seconds: float = IDLE_SECONDS, port: int = 0) -> Server:
    """The server to use; starts one when there is none. Returns at once: `wait` for it when it is needed.

    Also sets the environment variables by which Prefect finds it, so call this before Prefect is imported.

    Args:
        port: of a server that is started; 0 is one that is free.
    """
    if named := configured():
        os.environ.setdefault(*_QUIET)
        return Server(named)
    with _locked(root):
        touch(root)
        server = running(root) or _launch(root, idle_seconds, port)
    os.environ.update(environ(root, server.url))
    return server


def there(root: Path) -> Server | None:
    """The server to use where there is one, also one that is still starting; none is started."""
    if named := configured():
        os.environ.setdefault(*_QUIET)
        return Server(named)
    touch(root)  # first: one that is found must not end a moment later
    server = running(root)
    if server:
        os.environ.update(environ(root, server.url))
    return server


def environ(root: Path, url: str) -> dict[str, str]:
    """What makes Prefect, client or server, live in this project and quietly."""
    folder = home(root) / "prefect"
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        _OWN: url,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        # Waits of 2, 4 and 8 s a call: a server that died must not hold up the end of a run for minutes.
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        _QUIET[0]: _QUIET[1],
    }


def wait(server: Server, root: Path, cancel: threading.Event, patience: float = 120.0) -> None:
    """Until it answers.

    Raises:
        DependencyDown: it does not; the message names its log.
        Preempted: `cancel` was set meanwhile.
    """
    deadline = time.monotonic() + (patience if server.ours else 20.0)
    while not healthy(server.url):
        if cancel.wait(0.1):
            raise Preempted("stopped while the Prefect server was starting")
        gone = server.ours and not alive(server.pid, server.started)
        if gone or time.monotonic() > deadline:
            where = f"its log is {home(root) / 'prefect' / 'server.log'}" if server.ours else "PREFECT_API_URL names it"
            raise DependencyDown(f"no Prefect server answers at {server.url}; {where}")


def up(root: Path) -> Server:
    """As `start`, and answering. Raises DependencyDown where it does not come up."""
    server = start(root)
    wait(server, root, threading.Event())
    return server


def healthy(url: str) -> bool:
    """Whether a Prefect API answers there. No proxy is asked."""

    def ask() -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/health", timeout=2.0) as answer:
            return bool(answer.status == 200 and json.loads(answer.read()) is True)

    try:
        return in_time(ask, 5.0, url)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def running(root: Path) -> Server | None:
    """This project's server, also one that is still starting; None when there is none.

    A `.preflow` that came along with a copy of the checkout names another project, whose server is left alone.
    """
    try:
        record = json.loads((home(root) / "server.json").read_text(encoding="utf-8"))
        server = Server(record["url"], int(record["pid"]), float(record["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    ours = record.get("project") == str(home(root)) and alive(server.pid, server.started)
    return server if ours else None


def was_used(root: Path) -> bool:
    """Whether there is a Prefect to ask: one that the user has named, or ours, which was up at some time."""
    return bool(configured()) or (home(root) / "prefect" / "touched").exists()


def touch(root: Path) -> None:
    """Put off the end that idleness brings."""
    folder = home(root) / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "touched").touch()


def stop(root: Path, patience: float = 10.0) -> Server | None:
    """End this project's server; returns what was ended, None when none was running."""
    with _locked(root):
        server = running(root)
        if server is not None:
            process = psutil.Process(server.pid)
            children = process.children(recursive=True)
            process.send_signal(signal.SIGTERM)
            for left in psutil.wait_procs([process, *children], timeout=patience)[1]:
                left.kill()
            (home(root) / "server.json").unlink(missing_ok=True)
        return server


def _launch(root: Path, idle_seconds: float, port: int) -> Server:
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    with (home(root) / "prefect" / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.supervisor", str(home(root)), str(port), str(idle_seconds)],
            cwd=root,
            env={**os.environ, **environ(root, url), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(url, child.pid, psutil.Process(child.pid).create_time())
    record = {"url": url, "port": port, "pid": server.pid, "started": server.started, "project": str(home(root))}
    fresh = home(root) / ".server.json"
    fresh.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    fresh.replace(home(root) / "server.json")
    # Reap it if it ends before us, so that it is seen to be gone.
    threading.Thread(target=child.wait, daemon=True).start()
    return server


def configured() -> str:
    """The API that the user has named, by variable or in Prefect's active profile; "" for none."""
    named = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if named:
        return "" if named == os.environ.get(_OWN) else named
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        book = tomllib.loads((folder / "profiles.toml").read_text(encoding="utf-8"))
        name = os.environ.get("PREFECT_PROFILE") or book["active"]
        return str(book["profiles"][name].get("PREFECT_API_URL", "")).rstrip("/")
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError):
        return ""


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One starter or stopper at a time."""
    home(root).mkdir(parents=True, exist_ok=True)
    with (home(root) / "server.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
