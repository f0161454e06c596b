"""A stage of this run, sent to a work pool, watched, sent again where its worker is lost, and kept (`keeping`)."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from flows import champion, dvc, dvc_watch, workspace
from flows.plan import measured
from flows.pools import workers
from flows.pools.exchange import exchange_of
from flows.pools.keeping import is_up_to_date, take
from flows.pools.mail import Attempts, Inbox, Spot
from flows.pools.orders import REFS, Answer, Order
from flows.pools.patience import PATIENCE, patiently
from flows.pools.stage_work import inputs_of
from flows.pools.watch import Watch
from flows.releases.refs import QUIET, last_line, remote_of
from flows.runner import AGAIN, STOPPED, once_a_minute, tail
from flows.work import Work
from flows.workspace import git
from rlhf.errors import DataRefused, DependencyDown, Preempted, PreflowError
from tasks.config.pools import Pool
from tasks.outcome import StageResult

T = TypeVar("T")

_LOOK = 2.0  # seconds between two looks at Prefect and the mail
_AGAIN = 10.0  # seconds before a stage is sent again, and twice that before the time after it


def run_in_pool(work: Work, name: str, pool: Pool, flow_run: str, on_line: Callable[[str], None]) -> StageResult:
    """Bring one stage up to date by a worker; as `flows.runner.run_stage`, which does it here.

    A worker that dies or is wanted elsewhere is replaced by another, a few times, which goes on from the last
    checkpoint.

    Raises:
        PreflowError: it cannot be sent; the message says what to do.
    """
    began = time.monotonic()
    with dvc_watch.heeding(work.cancel):
        result = _Sender(work, name, pool, flow_run, on_line).send()
    return replace(result, seconds=round(time.monotonic() - began, 2))


class _Sender:
    def __init__(self, work: Work, name: str, pool: Pool, flow_run: str, on_line: Callable[[str], None]) -> None:
        self._work, self._name, self._pool, self._flow_run, self._say = work, name, pool, flow_run, on_line
        self._place, self._tree = work.place, work.place.tree
        self._exchange = exchange_of(self._place.owner)

    def send(self) -> StageResult:
        if not self._work.force and is_up_to_date(self._work, self._name):
            return StageResult(self._name, "cached")
        self._refuse_local_inputs()
        commit = self._commit()
        for attempt in range(1, AGAIN + 2):
            order = Order(
                run=self._place.run,
                stage=self._name,
                ref=f"{REFS}/{self._place.run}/{self._name}",
                commit=commit,
                mail=f"mail/{self._place.run}/{self._name}-{attempt}",
                flow_run=self._flow_run,
                force=self._work.force,
                planned=self._work.planned,
            )
            self._patiently(lambda order=order: self._publish(order))  # type: ignore[misc]
            try:
                result = self._attempt(order, attempt)
            finally:
                self._clear(order)
            if result is not None:
                return result
            if attempt <= AGAIN:
                self._say(f"{self._name}: sent again, {attempt} of {AGAIN} times")
                self._work.cancel.wait(_AGAIN * attempt)
        reason = f"{AGAIN + 1} workers of pool {self._pool.pool} in a row did not end it; their logs say more"
        return StageResult(self._name, "failed", reason=reason, exit_code=DependencyDown.exit_code)

    def _refuse_local_inputs(self) -> None:
        """Raises DataRefused where the stage reads files that only this host has."""
        graph, deps = self._work.graph, self._work.graph.stages[self._name].data_deps
        brought = [dep for dep in deps if not graph.makers(dep) and not dep.startswith(champion.FOLDER)]
        if brought and (own := git(self._tree, "ls-files", "--others", "--", *brought).splitlines()):
            raise DataRefused(
                f"{self._name} reads {own[0]}, which only this host has, and so cannot go to pool {self._pool.pool}: "
                "leave it out of `pools`, and it runs here"
            )

    def _commit(self) -> str:
        """What the worker starts from: the run's commit with dvc.lock and the champion as they are by now."""
        files = {path: self._tree / path for path in ("dvc.lock", *champion.FILES)}
        there = {path: file.read_bytes() for path, file in files.items() if file.exists()}
        message = f"stage {self._name} of run {self._place.run}"
        return workspace.commit_on(self._place.owner, [self._work.commit], there, message)

    def _publish(self, order: Order) -> None:
        """Send the commit, and what the stage reads."""
        if inputs := inputs_of(self._work.graph, self._name):
            done = dvc.call(self._tree, "push", "--no-run-cache", "--quiet", *inputs)
            if done.returncode != 0:
                why = dvc.last_line(done.stderr)
                raise DependencyDown(f"the DVC remote did not take what {self._name} reads: {why}")
        name = remote_of(self._place.owner)
        try:
            push = ("push", "--quiet", "--force", name, f"{order.commit}:{order.ref}")
            git(self._place.owner, *push, env=QUIET)
        except PreflowError as error:
            raise DependencyDown(f"the git remote {name} did not take the stage: {last_line(error)}") from None

    def _attempt(self, order: Order, attempt: int) -> StageResult | None:
        """What became of it; None where the worker was lost, or is wanted elsewhere."""
        attempts = Attempts(self._place.journals, self._place.reports, self._name)
        inbox, log = Inbox(self._exchange, order.mail, attempts.place), _Lines(attempts.log, self._say)
        with get_client(sync_client=True) as client:
            made = self._patiently(lambda: self._submitted(client, order, attempt))
            watch, answer = Watch(client, made), None
            try:
                answer = self._watched(watch, order, inbox, log)
            finally:
                if answer is None:
                    watch.give_up()
        if answer is None or answer.result.state == "stopped":
            watch.look(False)  # who stopped it may have said so since
            if self._work.cancel.is_set():
                return StageResult(self._name, "stopped", reason=STOPPED, exit_code=Preempted.exit_code)
            if not watch.lost and watch.state.name in ("Cancelling", "Cancelled"):
                return StageResult(self._name, "failed", reason="somebody cancelled it in Prefect", exit_code=1)
            why = "it was asked to end" if answer else watch.lost or watch.state.message or watch.state.name
            self._say(f"{self._name}: the worker was lost: {why}")
            return None
        if answer.result.state not in ("ran", "cached"):
            return answer.result
        self._patiently(lambda: take(self._work, order, answer))
        with suppress(OSError):  # no trouble with plans is worth any to a run
            measured.keep(self._place.owner, answer.measured)
        if answer.scratch.startswith("checkpoints/"):
            with suppress(DependencyDown):  # nobody needs it any more, and it can lie there
                self._exchange.remove(answer.scratch)
        return replace(answer.result, state="ran")

    def _submitted(self, client: SyncPrefectClient, order: Order, attempt: int) -> UUID:
        pool = self._pool.pool
        try:
            deployment = client.read_deployment_by_name(f"{workers.FLOW}/{pool}").id
        except ObjectNotFound:
            raise PreflowError(
                f"no worker has ever served pool {pool} at this Prefect server: start one, "
                f"`preflow worker --pool {pool}`, or leave {self._name} out of `pools`"
            ) from None
        made = client.create_flow_run_from_deployment(
            deployment,
            parameters={"order": order.as_json()},
            name=f"{order.run}/{order.stage}-{attempt}",
            idempotency_key=order.mail,  # an answer that was lost makes no second one
            job_variables=self._pool.job_variables,
        )
        with suppress(DependencyDown):
            if not workers.online(pool):
                self._say(f"{self._name}: waits for a worker of pool {pool}; none is up just now")
        return made.id

    def _watched(self, watch: Watch, order: Order, inbox: Inbox, log: "_Lines") -> Answer | None:
        """What it answered, None where that never came; what it says is passed on meanwhile."""
        asked, away, trying = False, math.inf, once_a_minute(self._say)
        while True:
            stopping, now = self._work.cancel.is_set(), time.monotonic()
            try:
                if stopping and not asked:
                    self._exchange.put(order.stop, b"")
                    asked = True
                told = inbox.take()
                log.pass_on()
                away = math.inf
                if told is not None or watch.is_over():
                    return None if told is None else Answer.of(told)
            except DependencyDown as error:
                away = min(away, now)
                trying(f"{self._name}: {error}; trying again")
                if (stopping or now - away > PATIENCE) and watch.is_over():
                    return None
            watch.look(stopping)
            if news := watch.news():
                self._say(f"{self._name}: waits in pool {self._pool.pool}: {news}")
            time.sleep(_LOOK)

    def _patiently(self, what: Callable[[], T]) -> T:
        down = (DependencyDown, httpx.TransportError, PrefectHTTPStatusError)
        return patiently(what, self._work.cancel, lambda line: self._say(f"{self._name}: {line}"), down)

    def _clear(self, order: Order) -> None:
        """Nobody needs it any more. What cannot be reached now lies about, a few bytes each."""
        with suppress(DependencyDown):
            self._exchange.remove(order.mail)
        with suppress(PreflowError):
            git(self._place.owner, "push", "--quiet", remote_of(self._place.owner), f":{order.ref}", env=QUIET)


class _Lines:
    """Whole lines of a log as they come."""

    def __init__(self, log: Spot, on_line: Callable[[str], None]) -> None:
        self._path, self._seen, self._on_line = log.path, log.base, on_line

    def pass_on(self) -> None:
        if self._path.exists():
            self._seen = tail(self._path, self._seen, self._on_line)
