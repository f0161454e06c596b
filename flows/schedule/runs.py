"""Firings of schedules, on the Prefect server: one that waits for a person, and those that came due too late.

Call `flows.server.up` before; nothing here imports Prefect before it is needed.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from flows.schedule.schedule import connected
from rlhf.errors import PreflowError


def answer(flow_run: str, approve: bool, reason: str) -> None:
    """Answer the form of a firing that waits for a person, which then goes on.

    Raises:
        PreflowError: it does not wait any more.
    """
    with connected() as client:
        done = client.resume_flow_run(UUID(flow_run), run_input={"approve": approve, "reason": reason})
    if done.status.value not in ("ACCEPT",):
        raise PreflowError(f"the firing does not wait any more: {getattr(done.details, 'reason', done.status.value)}")


def goes_on(flow_run: str) -> bool:
    """Whether a firing is still there and has not ended; False too where its server has lost what it knew."""
    from prefect.exceptions import ObjectNotFound

    with connected() as client, suppress(ObjectNotFound):
        state = client.read_flow_run(UUID(flow_run)).state
        return state is not None and not state.is_final()
    return False


def close(flow_run: str, state: str, message: str) -> None:
    """End a firing that waits, as somebody has decided without it."""
    from prefect.states import Completed

    if goes_on(flow_run):
        with connected() as client:
            client.set_flow_run_state(UUID(flow_run), Completed(name=state, message=message), force=True)


def collapse(deployment: str, until: datetime, spare: Collection[str] = ()) -> int:
    """End the slots of a deployment that came due by then and have not begun; how many there were.

    One that a person has answered is scheduled too, to go on: it has another state's name, and is not touched.

    Args:
        spare: flow runs that wait for a person.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Completed

    wanted = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[UUID(deployment)]),
        state=filters.FlowRunFilterState(
            type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED]),
            name=filters.FlowRunFilterStateName(any_=["Scheduled", "Late"]),
        ),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(before_=until),
    )
    with connected() as client:
        found = client.read_flow_runs(flow_run_filter=wanted)
        late = [one for one in found if one.auto_scheduled and str(one.id) not in spare]
        for one in late:
            state = Completed(name="Skipped", message=f"late: the firing that ended at {until:%H:%M:%S} answers for it")
            client.set_flow_run_state(one.id, state, force=True)
    return len(late)
