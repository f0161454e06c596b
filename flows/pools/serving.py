"""`preflow worker`: takes stages off a work pool, one at a time, until it is ended.

What talks to Prefect is a process of its own, which is replaced when it ends, as it gives up on a server that is away.
"""

import hashlib
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from flows import server
from flows.pools import workers
from flows.pools.exchange import exchange_of
from flows.pools.orders import GRACE, Type
from flows.pools.ready import refuse_unconnected, refuse_unprepared
from flows.pools.templates import namespace_of
from flows.processes import end_group, spawn
from rlhf.errors import DependencyDown
from tasks.journal import home

OBSERVED = "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"
_AGAIN = 5.0  # seconds before another try


def serve(
    root: Path,
    pool: str,
    kind: Type,
    template: Mapping[str, Any],
    cancel: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Serve until `cancel`; a stage that goes on then is saved, and its run has it done by another worker.

    One in a container is left to go on: it needs its worker for nothing.

    Args:
        kind: the type of the pool.
        template: what its containers are like; none for processes.

    Raises:
        PreflowError: something that a worker needs is not set up; the message says what to do.
    """
    if kind == "process":
        refuse_unprepared(root)
    else:
        refuse_unconnected()
    here = server.start(root)
    slots = workers.slots_of(os.environ) if kind == "process" else ()
    while not cancel.is_set():
        try:
            server.wait(here, root, cancel)
            workers.register(pool, kind, template, slots)
        except DependencyDown as error:
            say(f"{error}; trying again")
            cancel.wait(_AGAIN)
            continue
        way = f"with slots {', '.join(slots)}; exchange: {exchange_of(root).url}" if slots else f"by {kind}"
        say(f"serving pool {pool} of {here.page} {way}")
        argv = [sys.executable, "-m", "flows.pools.serving", kind, pool]
        worker = spawn(argv, cwd=root, env=_environ(root, kind, template, slots), output=sys.stdout)
        try:
            while worker.poll() is None and not cancel.wait(1.0):
                pass
        finally:
            below = _below(worker.pid)
            end_group(worker, GRACE)
            for left in below:  # a stage that has outlived its time, and its worker
                with suppress(psutil.Error):
                    left.kill()
        if not cancel.is_set():
            say("the worker's process has ended; starting it again")
            cancel.wait(_AGAIN)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _place_of(slots: Sequence[str]) -> str:
    """Name of a folder: that of a slot, and of several, which are too long together, a digest behind the first."""
    if len(slots) == 1:
        return slots[0]
    return f"{slots[0]}+{len(slots) - 1}-{hashlib.sha256(','.join(slots).encode()).hexdigest()[:8]}"


def _environ(root: Path, kind: Type, template: Mapping[str, Any], slots: Sequence[str]) -> dict[str, str]:
    own = {
        workers.CHECKOUT: str(root),
        workers.SLOTS: ",".join(slots),
        # Slots are one stage's at a time, so no two share a home, nor does one with a run of this very checkout.
        "PREFLOW_HOME": str(home(root) / "worker" / _place_of(slots)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",  # into a file, too, what is said is written as it is said
    }
    # Whoever looks on at Jobs for Prefect needs the rights for that in one namespace, and not in the whole cluster.
    watched = {OBSERVED: where} if kind == "kubernetes" and (where := namespace_of(template)) else {}
    return {**watched, **os.environ, **own, **workers.settings()}


def _take(kind: str, pool: str) -> None:
    """In a process of its own: SIGTERM has it take no further stage, and end when the one at work has ended."""
    import asyncio

    import httpx
    from prefect.workers.base import BaseWorker

    limit = None if kind == "kubernetes" else 1  # there Kubernetes says what begins when
    made = BaseWorker.get_worker_class_from_type(kind)
    worker = made(work_pool_name=pool, name=f"{platform.node()}-{os.getpid()}", limit=limit)
    ask, ending = worker.get_and_submit_flow_runs, threading.Event()

    def end(*_: object) -> None:
        ending.set()
        for stage in psutil.Process().children(recursive=True):  # Prefect starts them in sessions of their own
            with suppress(psutil.Error):
                if "prefect" in " ".join(stage.cmdline()):
                    stage.terminate()

    signal.signal(signal.SIGTERM, end)

    async def submit() -> list[object]:
        try:
            if not ending.is_set():
                return list(await ask())
        except httpx.TransportError:  # after some of them Prefect would end the worker, and the stage below it
            return []
        if kind != "process" or not worker.limiter.borrowed_tokens:
            os._exit(0)
        return []

    worker.get_and_submit_flow_runs = submit  # type: ignore[method-assign, assignment]
    asyncio.run(worker.start())


if __name__ == "__main__":
    _take(*sys.argv[1:])
