"""MLflow's and Prefect's pages on this machine, both ended by one Ctrl-C.

Runs started beside them appear in both: the database is that of the project, and so is the Prefect server.
"""

import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows import guards, server, supervisor
from flows.processes import end_group, spawn
from rlhf.errors import Busy, DependencyDown
from tasks.journal import home
from tasks.redact import address
from tasks.tracking.store import connect, uri_of

Say = Callable[[str], None]
CHECK_SECONDS = 2.0
PREFECT_PORT = 4200


def serve(root: Path, port: int, wanted: int | None, cancel: threading.Event, say: Say) -> None:
    """Serve both until `cancel` is set. What the environment names elsewhere is shown and not started.

    `wanted` is the port for Prefect, None for the usual one; where Prefect is up elsewhere already, that is said.

    Raises:
        Busy: a port is taken.
        DependencyDown: a server did not start, or ended by itself; the message names its log.
    """
    uri = uri_of(root)
    elsewhere = uri.startswith(("http://", "https://"))
    with ExitStack() as stack:
        prefect_port = wanted or PREFECT_PORT
        _one_at_a_time(root, stack)
        if not elsewhere:
            _refuse_taken(port, "MLflow", "PORT", "--port")
        prefect = _prefect(root, prefect_port, stack, say)
        if wanted not in (None, prefect.port):
            say(f"Prefect is up already at {prefect.page}, so port {wanted} is not used{_remedy(prefect)}")
        page, alive = (uri.rstrip("/"), None) if elsewhere else stack.enter_context(_mlflow(root, uri, port, cancel))
        server.wait(prefect, root, cancel)
        if cancel.is_set():
            return
        say(f"MLflow:  {address(page)}/#/experiments?workflowType=machine_learning")
        say(f"Prefect: {prefect.page}/runs")
        if not prefect.ours and alive is None:
            return
        say("Ctrl-C ends what was started here")
        while not cancel.wait(CHECK_SECONDS):
            if alive is not None:
                alive()
            if prefect.ours:
                prefect = _kept_up(root, prefect_port, prefect, say)


def _one_at_a_time(root: Path, stack: ExitStack) -> None:
    """Two would end each other's Prefect server."""
    try:
        stack.enter_context(guards.held(home(root) / "ui.lock", "preflow ui"))
    except Busy:
        there = server.running(root)
        where = f", Prefect's at {there.page}" if there else ""
        raise Busy(
            f"the pages of this project are open already{where}; Ctrl-C where `preflow ui` runs ends them"
        ) from None


def _prefect(root: Path, port: int, stack: ExitStack, say: Say) -> server.Server:
    if server.configured():
        return server.start(root)
    if server.running(root) is None:
        _refuse_taken(port, "Prefect", "PREFECT_PORT", "--prefect-port")
    stack.callback(_end_prefect, root, say)
    return server.start(root, port=port)


def _remedy(prefect: server.Server) -> str:
    return "; `preflow stop` ends that server" if prefect.ours else ", as PREFECT_API_URL says"


def _kept_up(root: Path, port: int, before: server.Server, say: Say) -> server.Server:
    """The server, started again where somebody has ended it; its idle time does not begin while pages are open."""
    server.touch(root)
    now = server.running(root) or server.start(root, port=port if _is_free(port) else 0)
    if now.page != before.page:
        say(f"Prefect: {now.page}/runs   (the one before has ended)")
    return now


def _end_prefect(root: Path, say: Say) -> None:
    """Not under a run, or a schedule, that needs it."""
    there = server.running(root)
    if there is None:
        return
    if supervisor.run_goes_on(home(root)) or (server.healthy(there.url) and supervisor.in_use(there.port)):
        say(f"Prefect stays at {there.page}: a run or a schedule needs it; `preflow stop` ends it all the same")
    else:
        server.stop(root)


@contextmanager
def _mlflow(root: Path, uri: str, port: int, cancel: threading.Event) -> Iterator[tuple[str, Callable[[], None]]]:
    """Where its pages are, once they are; and what raises when the server has gone."""
    connect(root)  # makes or upgrades the database, so that no two do
    folder = home(root) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("mlflow")
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # By the environment, as an address may hold a password, and arguments are there for all to see.
    own = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(root / "mlruns" / "artifacts")}
    with (folder / "server.log").open("wb") as log:
        process = spawn([program, *words], cwd=root, env={**os.environ, **own}, output=log)

    def alive() -> None:
        if process.poll() is not None:
            raise DependencyDown(f"MLflow's server ended with {process.returncode}; its log is {folder / 'server.log'}")

    try:
        while not _answers(port) and not cancel.wait(0.2):
            alive()
        yield f"http://127.0.0.1:{port}", alive
    finally:
        end_group(process)


def _answers(port: int) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _refuse_taken(port: int, whose: str, variable: str, option: str) -> None:
    if not _is_free(port):
        other = f"`make ui {variable}={port + 1}` or `preflow ui {option} {port + 1}`"
        raise Busy(f"port {port}, wanted for {whose}, is taken; name another: {other}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just closed is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
