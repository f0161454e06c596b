"""A worker of Prefect's in a process of its own, which ends after the flow runs that it has begun, not before.

Prefect starts each of them in a session of its own, so what ends the group of the worker reaches none.
"""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from flows.processes import end_group

if TYPE_CHECKING:
    from prefect.workers.base import BaseWorker

_LOOK = 0.5  # seconds between two looks at whether to end
_FLOW_RUN = {"prefect.runner._workspace_supervisor", "prefect.engine"}
"""Modules that a flow run is, one after the other, in one process; a hook after its end is another."""


def end(worker: "subprocess.Popen[bytes]", patience: float) -> None:
    """End a process of `take`; what has not ended in `patience` seconds is killed, with all that is below it."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(worker.pid).children(recursive=True)
    end_group(worker, patience)
    for left in below if worker.returncode else ():
        with suppress(psutil.Error):
            left.kill()


def take(worker: "BaseWorker[Any, Any, Any]", leaves: bool = False) -> None:
    """Take flow runs until SIGTERM: it then takes no further one, asks those at work to end, and ends with the last.

    Args:
        leaves: it asks and waits for none: they are in containers, and need it only to start.
    """
    import httpx

    ask, asked, ending, settled = worker.get_and_submit_flow_runs, set[int](), False, False

    def heed(*_: object) -> None:
        nonlocal ending
        ending = True

    async def submit() -> list[object]:
        nonlocal settled
        settled = ending  # what it took before has been started by now
        with suppress(httpx.TransportError):  # after some of them Prefect would end the worker, and the runs below it
            return [] if ending else list(await ask())
        return []

    def at_work() -> bool:
        if leaves:
            return not settled
        with suppress(RuntimeError):  # it has not begun yet
            return worker.limiter.borrowed_tokens > 0
        return False

    async def work() -> None:
        taking = asyncio.ensure_future(worker.start())
        while not ending or at_work():
            if (await asyncio.wait([taking], timeout=_LOOK))[0]:
                return taking.result()
            if ending and not leaves:  # each time: one may have been about to start
                _ask_to_end(asked)
        os._exit(0)

    signal.signal(signal.SIGTERM, heed)
    worker.get_and_submit_flow_runs = submit  # type: ignore[method-assign, assignment]
    asyncio.run(work())


def _ask_to_end(asked: set[int]) -> None:
    """Once each: a second SIGTERM would end it while it saves."""
    for run in psutil.Process().children():
        with suppress(psutil.Error):
            if run.pid not in asked and _FLOW_RUN & {*run.cmdline()}:
                asked.add(run.pid)
                run.terminate()
