"""The Prefect flow `retrain`: what a deployment fires. Import it where Prefect knows its server."""

import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled, Completed, Failed, State

from flows import notify as webhook
from flows import workspace
from flows.environment import set_defaults
from flows.retrain import due
from flows.retrain import retrain as retraining
from flows.retrain.retrain import FAILED, PATIENCE, REFUSED, STOPPED, TOLD, WAITING, Order, Outcome
from flows.schedule import runs, schedule
from flows.summary import summary
from rlhf.errors import DependencyDown, PreflowError


class Approval(RunInput):
    """What a person says of a run that the gate let through."""

    approve: bool
    reason: str = ""


def _name() -> str:
    asked = runtime.flow_run.scheduled_start_time
    return f"{schedule.name_of(runtime.deployment.name or 'retrain')} {asked:%Y-%m-%d %H:%M:%S}"


def _tell(_: object, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook: Prefect calls it after every end, also after that of a process that was killed."""
    if (url := flow_run.parameters.get("notify")) and state.name in (*TOLD, "Failed", "Crashed"):
        news = {"firing": flow_run.name, "state": state.name, "message": state.message or ""}
        webhook.tell(url, news | {"flow_run": str(flow_run.id)}, lambda line: print(line, file=sys.stderr))


@flow(
    name="retrain",
    flow_run_name=_name,
    persist_result=False,
    on_completion=[_tell],
    on_failure=[_tell],
    on_crashed=[_tell],
)
def retrain(
    profile: str = "",
    settings: list[str] | None = None,
    watch: list[str] | None = None,
    by_hand: bool = False,
    notify: str = "",
) -> State[Any]:
    """Retrain where something is new: see `flows.retrain.retrain.fire`.

    Args:
        profile: overlay on params.yaml.
        settings: `key=value` over that.
        watch: folders whose new shards are brought into data/inbox.
        by_hand: a person decides on what the gate lets through.
        notify: URL that hears what came of it.
    """
    set_defaults()
    root, logger = workspace.find_root(Path.cwd()), get_run_logger()
    context = FlowRunContext.get()
    here = context.flow_run if context else None
    flow_run = str(here.id) if here else ""
    outcome: Outcome | None = None
    try:
        waits = retraining.waiting(root, flow_run=flow_run)
        if waits is None:
            name = schedule.name_of(runtime.deployment.name or "")
            order = Order(profile, tuple(settings or ()), tuple(watch or ()), by_hand, name)
            outcome = retraining.fire(
                root,
                order,
                threading.Event(),
                say=logger.info,
                slot=here.expected_start_time if here and here.auto_scheduled else None,
                flow_run=flow_run,
                goes_on=runs.goes_on,
                show=lambda report, tree: summary(root, report, tree, to_stdout=False),
            )
        if waits or (outcome and outcome.state == WAITING):
            # On the way back, after a person has answered, the flow starts again from its top and comes here at once.
            run = waits["run"] if waits else outcome.run  # type: ignore[union-attr]
            if here and outcome:
                _tell(None, here, Completed(name=WAITING, message=outcome.message))
            answer = _ask(run, outcome.message if outcome else "")
            outcome = retraining.decide(root, run, answer.approve, answer.reason, logger.info)
    except PreflowError as error:
        return Failed(name=FAILED, message=str(error))
    except TerminationSignal:  # before the stages, or after them
        return Cancelled(name=STOPPED, message="stopped; the next firing goes on from there")
    finally:
        if here and here.deployment_id:
            with suppress(DependencyDown):  # they then ask for themselves
                spare = {waits["flow_run"] for waits in due.waits(root)}
                runs.collapse(str(here.deployment_id), datetime.now(UTC), spare)
    assert outcome is not None
    logger.info(f"{outcome.state}: {outcome.message}")
    kinds = {REFUSED: Failed, FAILED: Failed, STOPPED: Cancelled}
    return kinds.get(outcome.state, Completed)(name=outcome.state, message=outcome.message)


def _ask(run: str, message: str) -> Approval:
    """End this process until a person has answered the form, in Prefect's UI or with `preflow promote`."""
    form = Approval.with_initial_data(description=f"**Promote the policy of run `{run}`?**\n\n{message}", reason="")
    print(f"retrain: run {run} waits for a person", file=sys.stderr, flush=True)
    return suspend_flow_run(wait_for_input=form, timeout=PATIENCE, key="approval")  # type: ignore[return-value]
