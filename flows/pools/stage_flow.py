"""The Prefect flow of one stage, as a worker runs it. Import it where Prefect knows its server."""

import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Crashed, Failed, State

from flows.environment import set_defaults
from flows.pools.exchange import exchange_of
from flows.pools.mail import Outbox
from flows.pools.orders import FLOW, Answer, Order
from flows.pools.stage_work import Attempt
from flows.pools.workers import CHECKOUT, slot_of
from rlhf.errors import DependencyDown, PreflowError
from tasks.journal import home
from tasks.outcome import StageResult

_LENT = 60.0  # seconds after which Prefect takes back the slot of a stage that was killed
_POST = 5.0  # seconds between two parcels
_PATIENCE = 600.0  # seconds in which an exchange that is away may come back, before a stage's work is given up
_ASK = 12  # parcels after which to ask whether the run that wants the stage still goes on


@flow(name=FLOW, persist_result=False, retries=0)
def stage(order: dict[str, Any]) -> State[Any]:
    """Do one stage of a run; see `flows.pools`.

    Args:
        order: an `Order`.
    """
    set_defaults()
    this, root = Order(**order), Path(os.environ[CHECKOUT])
    cancel = threading.Event()
    slot = concurrency(
        slot_of(os.environ), occupy=1, lease_duration=_LENT, strict=True, raise_on_lease_renewal_failure=False
    )
    with _heeding(cancel), slot:
        print(f"{this.stage} of run {this.run}: begins", file=sys.stderr, flush=True)
        exchange = exchange_of(root)
        sources = {"journal": home(root) / "journal" / this.run, "reports": home(root) / "reports" / this.run}
        post = Outbox(exchange, this.mail, sources)
        attempt = Attempt(root, this, exchange, str(runtime.flow_run.get_id()), cancel)
        try:
            with _courier(post, lambda: _wanted(this.flow_run), cancel):
                answer = attempt.do()
        except PreflowError as error:
            answer = Answer(StageResult(this.stage, "failed", 0.0, str(error), error.exit_code), platform.node())
        except Exception as error:  # a bug of ours: sent again, it would be met again
            reason = f"{type(error).__name__}: {error}"
            answer = Answer(StageResult(this.stage, "failed", 0.0, reason, 1), platform.node())
        if not _is_running():
            return Crashed(message="somebody else has the stage by now; what this attempt made is not handed over")
        _deliver(post, answer)
        if answer.entry:
            attempt.forget()
        for folder in sources.values():
            shutil.rmtree(folder, ignore_errors=True)
    result = answer.result
    print(f"{this.stage} of run {this.run}: {result.state} {result.reason}".rstrip(), file=sys.stderr, flush=True)
    if result.state in ("ran", "cached"):
        return Completed(message=f"{result.state} on {answer.host}")
    return (Crashed if result.state == "stopped" else Failed)(message=result.reason)


def _deliver(post: Outbox, answer: Answer) -> None:
    """Raises DependencyDown where the exchange does not take it for long."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return post.post(answer.as_json())
        except DependencyDown as error:
            if time.monotonic() > until:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(_POST)


@contextmanager
def _heeding(cancel: threading.Event) -> Iterator[None]:
    """SIGTERM, which a worker that goes and a run that is cancelled send, lets the stage save what it has."""
    before = signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=cancel.set).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _courier(post: Outbox, wanted: Callable[[], bool], cancel: threading.Event) -> Iterator[None]:
    """Send what the stage says while it works; where its run is over, stop it."""
    over = threading.Event()

    def work() -> None:
        count = 0
        while not over.wait(_POST):
            with suppress(DependencyDown):  # the next one has it
                post.post()
            count += 1
            if count % _ASK == 0 and not wanted():
                cancel.set()

    courier = threading.Thread(target=work, daemon=True)
    courier.start()
    try:
        yield
    finally:
        over.set()
        courier.join()


def _wanted(flow_run: str) -> bool:
    """Whether the run that sent the stage goes on, as far as Prefect can tell."""
    state = _state(flow_run)
    return state is None or not state.is_final()


def _is_running() -> bool:
    """Whether this flow run is still what Prefect takes for the stage: one that was frozen may have been given up."""
    state = _state(str(runtime.flow_run.get_id()))
    return state is None or not state.is_final()


def _state(flow_run: str) -> State[Any] | None:
    """None where nobody can tell."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(flow_run)).state
    except ObjectNotFound:
        return Crashed(message="it is gone")
    except Exception:  # the server is away: the stage goes on
        return None
