"""`preflow worker`: takes stages off a work pool, one at a time, until it is ended.

What talks to Prefect is a process of its own, which is replaced when it ends, as it gives up on a server that is away.
"""

import hashlib
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import prefect_worker, server
from flows.pools import workers
from flows.pools.exchange import exchange_of
from flows.pools.orders import GRACE, Type
from flows.pools.ready import refuse_unconnected, refuse_unprepared
from flows.pools.templates import namespace_of
from flows.processes import spawn
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
            prefect_worker.end(worker, GRACE)
        if not cancel.is_set():
            say("the worker's process has ended; starting it again")
            cancel.wait(_AGAIN)


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
    """In a process of its own."""
    from prefect.workers.base import BaseWorker

    limit = None if kind == "kubernetes" else 1  # there Kubernetes says what begins when
    made = BaseWorker.get_worker_class_from_type(kind)
    name = f"{platform.node()}-{os.getpid()}"
    prefect_worker.take(made(work_pool_name=pool, name=name, limit=limit), leaves=kind != "process")


if __name__ == "__main__":
    _take(*sys.argv[1:])
