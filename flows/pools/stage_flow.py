"""The Prefect flow of one stage, as a worker runs it. Import it where Prefect knows its server."""

import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, State

from flows import guards
from flows.environment import set_defaults
from flows.pools.beside import now_and_then
from flows.pools.exchange import Exchange, exchange_of
from flows.pools.mail import Outbox
from flows.pools.orders import FLOW, Answer, Order
from flows.pools.stage_work import Attempt
from flows.pools.workers import CHECKOUT, SLOTS
from rlhf.errors import DependencyDown, PreflowError
from tasks.journal import home
from tasks.outcome import StageResult

_LENT = 60.0  # seconds after which Prefect takes back the slot of a stage that was killed
_POST = 5.0  # seconds between two parcels
_PATIENCE = 600.0  # seconds in which an exchange that is away may come back, before a stage's work is given up
_ASK = 12  # parcels after which to ask whether the run that wants the stage still goes on, and wants it of us


@flow(name=FLOW, persist_result=False, retries=0)
def stage(order: dict[str, Any]) -> State[Any]:
    """Do one stage of a run; see `flows.pools`.

    Args:
        order: an `Order`.
    """
    set_defaults()
    this, root = Order(**order), Path(os.environ[CHECKOUT])
    cancel, own = threading.Event(), str(runtime.flow_run.get_id())
    # Prefect's slots can be seen and waited for; they are lent anew where the server is away, and this lock is not.
    with _heeding(cancel), _slots(), guards.held(home(root) / "slot.lock", this.stage, wait=math.inf):
        print(f"{this.stage} of run {this.run}: begins", file=sys.stderr, flush=True)
        exchange = exchange_of(root)
        sources = {"journal": home(root) / "journal" / this.run, "reports": home(root) / "reports" / this.run}
        post = Outbox(exchange, this.mail, sources)
        attempt = Attempt(root, this, exchange, own, cancel)
        try:
            with _courier(post, exchange, this, own, cancel):
                answer = attempt.do()
        except PreflowError as error:
            answer = Answer(StageResult(this.stage, "failed", 0.0, str(error), error.exit_code), platform.node())
        except Exception as error:  # a bug of ours: sent again, it would be met again
            reason = f"{type(error).__name__}: {error}"
            answer = Answer(StageResult(this.stage, "failed", 0.0, reason, 1), platform.node())
        state = _state(own)
        if _is_over(state):  # one that was frozen or cut off has been given up
            why = "somebody else has the stage by now; what this attempt made is not handed over"
            print(f"{this.stage} of run {this.run}: {why}", file=sys.stderr, flush=True)
            with suppress(DependencyDown):  # it may have posted something since the run cleared that away
                exchange.remove(this.mail)
            return Crashed(message=why)
        asked = _is_asked_to_stop(exchange, this) or _is_cancelled(state)
        _deliver(post, answer)
        if answer.entry:
            attempt.forget()
        for folder in sources.values():
            shutil.rmtree(folder, ignore_errors=True)
    result = answer.result
    print(f"{this.stage} of run {this.run}: {result.state} {result.reason}".rstrip(), file=sys.stderr, flush=True)
    if result.state in ("ran", "cached"):
        return Completed(message=f"{result.state} on {answer.host}")
    if result.state == "stopped":
        return (Cancelled if asked else Crashed)(message=result.reason)
    return Failed(message=result.reason)


def _slots() -> AbstractContextManager[None]:
    """Those of the devices, where others may want them too; all at once, so that nobody waits with one in hand."""
    names = [name for name in os.environ.get(SLOTS, "").split(",") if name]
    if not names:
        return nullcontext()
    return concurrency(names, occupy=1, lease_duration=_LENT, strict=True, raise_on_lease_renewal_failure=False)


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


def _courier(
    post: Outbox, exchange: Exchange, order: Order, own: str, cancel: threading.Event
) -> AbstractContextManager[None]:
    """Send what the stage says while it works; stop it where its run says so, is over, or has given this attempt up."""

    def work(count: int) -> None:
        with suppress(DependencyDown, OSError):  # the next one has it
            post.post()
            if _is_asked_to_stop(exchange, order):
                cancel.set()
        if count % _ASK == 0:
            state = _state(own)
            if _is_over(state) or _is_cancelled(state) or _is_over(_state(order.flow_run)):
                cancel.set()

    return now_and_then(_POST, work)


def _is_asked_to_stop(exchange: Exchange, order: Order) -> bool:
    with suppress(DependencyDown):
        return exchange.get(order.stop) is not None
    return False


def _is_over(state: State[Any] | None) -> bool:
    """As far as Prefect can tell."""
    return state is not None and state.is_final()


def _is_cancelled(state: State[Any] | None) -> bool:
    """By people, on Prefect's page. Its worker for processes ends the stage then; in a container nobody else does."""
    return state is not None and state.is_cancelling()


def _state(flow_run: str) -> State[Any] | None:
    """None where nobody can tell."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(flow_run)).state
    except ObjectNotFound:
        return Crashed(message="it is gone")
    except Exception:  # the server is away: the stage goes on
        return None
