"""A stage of this run, sent to a work pool and kept as if it had run here.

Nothing changes the run but DVC itself: what a worker made is brought into the cache, its note into DVC's run cache, and
then `dvc repro -s STAGE` finds the stage done, puts its outputs in place and writes dvc.lock.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import State

from flows import champion, dvc, remote, workspace
from flows.pools import workers
from flows.pools.exchange import exchange_of
from flows.pools.mail import Attempts, Inbox, Spot
from flows.pools.orders import REFS, Answer, Order
from flows.pools.stage_work import inputs_of
from flows.pools.watch import Watch
from flows.releases_refs import QUIET, last_line, remote_of
from flows.runner import AGAIN, STOPPED, tail
from flows.work import Work
from flows.workspace import git
from rlhf.errors import DataRefused, DependencyDown, Preempted, PreflowError
from tasks.outcome import StageResult

_LOOK = 2.0  # seconds between two looks at Prefect and the mail
_INBOX = "data/inbox"
"""Where files lie that neither a commit nor dvc.lock has."""


def run_in_pool(work: Work, name: str, pool: str, flow_run: str, on_line: Callable[[str], None]) -> StageResult:
    """Bring one stage up to date by a worker; as `flows.runner.run_stage`, which does it here.

    A worker that dies or is wanted elsewhere is replaced by another, a few times, which goes on from the last
    checkpoint.

    Raises:
        PreflowError: it cannot be sent; the message says what to do.
    """
    began = time.monotonic()
    result = _Sender(work, name, pool, flow_run, on_line).send()
    return replace(result, seconds=round(time.monotonic() - began, 2))


class _Sender:
    def __init__(self, work: Work, name: str, pool: str, flow_run: str, on_line: Callable[[str], None]) -> None:
        self._work, self._name, self._pool, self._flow_run, self._say = work, name, pool, flow_run, on_line
        self._place, self._tree = work.place, work.place.tree
        self._exchange = exchange_of(self._place.owner)

    def send(self) -> StageResult:
        if not self._work.force and self._is_up_to_date():
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
            )
            self._publish(order)
            try:
                result = self._attempt(order, attempt)
            finally:
                self._clear(order)
            if result is not None:
                return result
            if attempt <= AGAIN:
                self._say(f"{self._name}: sent again, {attempt} of {AGAIN} times")
        reason = f"{AGAIN + 1} workers of pool {self._pool} in a row did not end it; their logs say more"
        return StageResult(self._name, "failed", reason=reason, exit_code=DependencyDown.exit_code)

    def _is_up_to_date(self) -> bool:
        """Whether DVC has it done, in dvc.lock or in its run cache: then it puts it in place. It can run nothing."""
        false = shutil.which("false") or "/bin/false"
        done = dvc.call(self._tree, "repro", "--single-item", self._name, shell=false)
        if done.returncode and "failed to run:" not in done.stderr:
            raise PreflowError(f"dvc could not tell whether {self._name} is up to date: {_last(done.stderr)}")
        return done.returncode == 0

    def _refuse_local_inputs(self) -> None:
        """Raises DataRefused where the stage reads files that only this host has."""
        if _INBOX not in self._work.graph.stages[self._name].deps:
            return
        if own := git(self._tree, "ls-files", "--others", "--", _INBOX).splitlines():
            raise DataRefused(
                f"{self._name} reads {own[0]}, which only this host has, and so cannot go to pool {self._pool}: leave "
                "it out of `pools`, and it runs here"
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
            remote.push(self._tree, inputs)
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
            made = self._submitted(client, order, attempt)
            state, answer = self._watched(client, made, inbox, log)
        if answer is None:
            if self._work.cancel.is_set():
                return self._stopped()
            self._say(f"{self._name}: the worker was lost: {state.message or state.name}")
            return None
        if answer.result.state == "stopped":
            return self._stopped() if self._work.cancel.is_set() else None
        if answer.result.state not in ("ran", "cached"):
            return answer.result
        self._keep(order, answer)
        return replace(answer.result, state="ran")

    def _stopped(self) -> StageResult:
        return StageResult(self._name, "stopped", reason=STOPPED, exit_code=Preempted.exit_code)

    def _submitted(self, client: SyncPrefectClient, order: Order, attempt: int) -> UUID:
        try:
            deployment = client.read_deployment_by_name(f"{workers.FLOW}/{self._pool}").id
        except ObjectNotFound:
            raise PreflowError(
                f"no worker has ever served pool {self._pool} at this Prefect server: start one, "
                f"`preflow worker --pool {self._pool}`, or leave {self._name} out of `pools`"
            ) from None
        made = client.create_flow_run_from_deployment(
            deployment, parameters={"order": order.as_json()}, name=f"{order.run}/{order.stage}-{attempt}"
        )
        if not workers.online(self._pool):
            self._say(f"{self._name}: waits for a worker of pool {self._pool}; none is up just now")
        return made.id

    def _watched(
        self, client: SyncPrefectClient, made: UUID, inbox: Inbox, log: "_Lines"
    ) -> tuple[State[Any], Answer | None]:
        """Its last state and what it answered, None where that never came; what it says is passed on meanwhile."""
        watch = Watch(client, made)
        while True:
            if (answer := self._taken(inbox, log)) is not None or watch.is_over():
                return watch.state, answer
            watch.look(self._work.cancel.is_set())
            time.sleep(_LOOK)

    def _taken(self, inbox: Inbox, log: "_Lines") -> Answer | None:
        try:
            told = inbox.take()
        except DependencyDown as error:
            self._say(f"{self._name}: {error}; trying again")
            return None
        log.pass_on()
        return None if told is None else Answer.of(told)

    def _keep(self, order: Order, answer: Answer) -> None:
        """Bring what the worker made, and have DVC take it.

        Raises:
            PreflowError: it is not what this run would have made.
        """
        path, _, text = answer.cached.partition("\n")
        cache = dvc.cache(self._place.owner)
        if len(Path(path).parts) != 3 or Path(path).is_absolute() or ".." in Path(path).parts:
            raise PreflowError(f"the worker {answer.host} sent {path!r}, which is no entry of a run cache")
        version = {"commit": order.commit, "ref": order.ref, "entry": answer.entry}
        remote.fetch_entry(self._place.owner, version, self._name, cache)
        note = cache / "runs" / path
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f".{note.name}.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(note)
        if not self._is_up_to_date() or dvc.entry(self._tree, self._name) != answer.entry:
            raise DataRefused(
                f"what {self._name} reads was changed here while {answer.host} worked at it, so its result counts for "
                "nothing; run again"
            )

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


def _last(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("ERROR: ")
