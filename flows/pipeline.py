"""The Prefect flow: one task a stage, in the order that dvc.yaml says and nothing else does.

Import this after `flows.server.start`, which tells Prefect where its server is.
"""

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import TerminationSignal
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import guards, inputs
from flows.pools.keeping import forget_forced
from flows.pools.sending import run_in_pool
from flows.runner import GO_ON, STOPPED, run_stage
from flows.work import Work
from rlhf.errors import DependencyDown, Preempted, PreflowError
from tasks import outcome
from tasks.outcome import StageResult
from tasks.redact import logged


def execute(work: Work) -> Mapping[str, StageResult]:
    """Run the flow to its end; one result a stage, in the order of the graph. A stage that fails is a result, no error.

    So is a flow that Prefect could not go on with: the first stage that it did not begin has failed with code 87.
    """
    results: dict[str, StageResult] = {}
    trouble = ""
    forget_forced(work)
    try:
        state = pipeline(work, results)(return_state=True)
        trouble = str(state.message or "")
    except TerminationSignal:
        work.cancel.set()
    except Exception as error:  # its server has gone: what the stages did is known all the same
        trouble = logged(f"{type(error).__name__}: {error}")
        work.on_trouble(f"Prefect: {trouble}; its page of this run may be incomplete")
    for name in work.graph.stages:
        if name not in results:
            results[name] = _not_begun(work, name, results, trouble)
            work.on_result(results[name])
    return {name: results[name] for name in work.graph.stages}


def show_report(flow_run_id: str, text: str, say: Callable[[str], None]) -> None:
    """Show a Markdown text with a flow run, which may have ended; a line where Prefect does not take it."""
    about = "the run's report in short"
    try:
        with get_client(sync_client=True) as client:
            client.create_artifact(
                ArtifactCreate(
                    key="report", type="markdown", description=about, data=text, flow_run_id=UUID(flow_run_id)
                )
            )
    except Exception as error:  # its server has gone
        say(f"Prefect did not take the run's report: {type(error).__name__}: {error}")


def pipeline(work: Work, results: dict[str, StageResult]) -> Any:
    """The flow of one run, with a task for each stage of its graph; fills `results` as they end."""
    slots, heard_by = threading.Semaphore(work.slots), signal.getsignal(signal.SIGTERM)

    def body(name: str) -> State[Any]:
        try:
            result = _one(work, name, slots)
        except Exception as error:
            result = StageResult(name, "failed", reason=f"{type(error).__name__}: {error}", exit_code=1)
        results[name] = result
        work.on_result(result)
        return _state(result)

    # A thread a stage, of which `slots` work: with fewer, one that waits for its input could hold up another.
    @flow(
        name="pipeline",
        flow_run_name=work.place.run,
        task_runner=ThreadPoolTaskRunner(max_workers=len(work.graph.stages)),
        validate_parameters=False,
        persist_result=False,
    )
    def run() -> State[Any]:
        if callable(heard_by) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heard_by)  # Prefect's ends this process before its books are closed
        work.on_flow(str(flow_run.get_id() or ""))
        futures: dict[str, Any] = {}
        for name in work.graph.stages:
            stage = task(body, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
            futures[name] = stage.submit(name, wait_for=[futures[other] for other in work.graph.upstream[name]])
        try:
            wait(list(futures.values()))
        except BaseException:  # below a flow that Prefect runs, SIGTERM is an exception here
            work.cancel.set()
            raise
        return _ended(work, results)

    return run


def _ended(work: Work, results: Mapping[str, StageResult]) -> State[Any]:
    names = {state: [one.name for one in results.values() if one.state == state] for state in get_args(outcome.State)}
    ran, cached = len(names["ran"]), len(names["cached"])
    if work.cancel.is_set() and ran + cached < len(work.graph.stages):
        where = f" in {', '.join(names['stopped'])}" if names["stopped"] else ""
        return Cancelled(message=f"stopped{where}; {GO_ON}")
    if names["failed"]:
        return Failed(message="; ".join(f"{name}: {results[name].reason}" for name in names["failed"]))
    return Completed(message=f"{ran} ran, {cached} cached")


def _one(work: Work, name: str, slots: threading.Semaphore) -> StageResult:
    if name not in work.todo:
        return StageResult(name, "cached")
    logger = get_run_logger()

    def on_line(line: str) -> None:
        line = logged(line)
        logger.info(line)
        work.on_line(name, line)

    pool = work.pools.get(name)
    with nullcontext() if pool else slots:
        if work.cancel.is_set():
            return StageResult(name, "skipped", reason="stopped before it began")
        work.on_start(name)
        try:
            with slots if pool else nullcontext():  # it may sample
                work.before(name)
            if pool:
                result = run_in_pool(work, name, pool, str(flow_run.get_id() or ""), on_line)
            else:
                with _alone_with_its_inbox(work, name, on_line):
                    result = run_stage(
                        work.place, name, on_line=on_line, cancel=work.cancel, force=work.force, patience=work.patience
                    )
            if result.state in ("ran", "cached"):
                inputs.hold(work.place.tree, work.graph, name)
        except Preempted as error:
            return StageResult(name, "stopped", reason=STOPPED, exit_code=error.exit_code)
        except PreflowError as error:
            return StageResult(name, "failed", reason=str(error), exit_code=error.exit_code)
        return result


def _alone_with_its_inbox(work: Work, name: str, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """In the checkout itself, whose inbox retrains fill; a worktree has its own."""
    shared = work.place.tree == work.place.owner and "data/inbox" in work.graph.stages[name].deps
    return guards.inbox(work.place.owner, f"stage {name}", say, work.cancel) if shared else nullcontext()


def _state(result: StageResult) -> State[Any]:
    if result.state == "cached":
        return Completed(name="Cached", message="unchanged, or restored from the run cache")
    if result.state == "ran":
        return Completed(message=f"ran in {result.seconds:.1f} s")
    if result.state in ("stopped", "skipped"):
        return Cancelled(message=result.reason)
    return Failed(message=f"{result.reason} (exit code {result.exit_code})")


def _not_begun(work: Work, name: str, results: Mapping[str, StageResult], trouble: str) -> StageResult:
    broken = [other for other in work.graph.upstream[name] if results[other].state not in ("ran", "cached")]
    if broken or work.cancel.is_set():
        reason = f"needs {', '.join(broken)}" if broken else "stopped before it began"
        return StageResult(name, "skipped", reason=reason)
    reason = f"Prefect did not start it ({trouble or 'no reason given'}); run again, what is done is kept"
    return StageResult(name, "failed", reason=reason, exit_code=DependencyDown.exit_code)
