"""Schedules of retrains: deployments of the flow `retrain` on the Prefect server.

Call `flows.server.start` before; nothing here imports Prefect before it is needed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.prefect_api import ask
from rlhf.errors import DependencyDown, PreflowError
from tasks.config import ConfigError

if TYPE_CHECKING:
    from flows.retrain import Order

POOL = "preflow"
FLOW = "retrain"


@dataclass(frozen=True)
class Slots:
    """When it fires: one of the three."""

    cron: str = ""
    every: str = ""
    """As `30s`, `15m`, `6h` or `1d`."""
    rrule: str = ""

    def schedule(self) -> Any:
        """As Prefect has it.

        Raises:
            ConfigError: none or several are given, or one that cannot be read.
        """
        from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

        given = [text for text in (self.cron, self.every, self.rrule) if text]
        if len(given) != 1:
            raise ConfigError(f"give one of --cron, --every and --rrule; {len(given)} are given")
        try:
            if self.cron:
                return CronSchedule(cron=self.cron)
            return IntervalSchedule(interval=_period(self.every)) if self.every else RRuleSchedule(rrule=self.rrule)
        except ValueError as error:
            why = str(error).splitlines()[-1 if "\n" not in str(error) else 2].strip().partition(" [type=")[0]
            raise ConfigError(f"{given[0]!r} is no schedule: {why}") from None


def create(root: Path, order: "Order", slots: Slots, notify: str) -> dict[str, Any]:
    """Make, or make anew, the deployment `retrain/<name>` of an order; a URL of `notify` hears what comes of it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    schedule = slots.schedule()
    parameters = {"profile": order.profile, "settings": [*order.settings], "watch": [*order.watch]}
    with _client() as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=_template()))
        deployment = client.create_deployment(
            client.create_flow_from_name(FLOW),
            order.key,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
            parameters=parameters | {"by_hand": order.by_hand, "notify": notify},
            description="Retrains where data, parameters or code are new, promotes what passes the gate",
            work_pool_name=POOL,
            entrypoint="flows.retrain_flow.retrain",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}],
            paused=False,
        )
        return _told(client.read_deployment(deployment).model_dump(mode="json"))


def listed(url: str) -> list[dict[str, Any]]:
    """All schedules of the server at this address, by name; Prefect itself is not imported for that."""
    try:
        found = ask(f"{url}/deployments/filter", {"flows": {"name": {"any_": [FLOW]}}})
    except (OSError, ValueError) as error:
        raise DependencyDown(f"the Prefect server did not do it: {error}") from None
    return sorted(map(_told, found), key=lambda one: str(one["name"]))


def pause(name: str, paused: bool) -> dict[str, Any]:
    """Hold it, or let it go on; slots of the meantime do not fire later."""
    with _client() as client:
        found = _found(client, name)
        (client.pause_deployment if paused else client.resume_deployment)(found.id)
        return _told(client.read_deployment(found.id).model_dump(mode="json"))


def run_now(name: str) -> dict[str, Any]:
    """A firing at once, besides its slots; `preflow schedule serve` takes it."""
    with _client() as client:
        made = client.create_flow_run_from_deployment(_found(client, name).id)
        return {"name": name, "flow_run": str(made.id)}


def delete(name: str) -> None:
    """Take it away; what was retrained stays."""
    with _client() as client:
        client.delete_deployment(_found(client, name).id)


def answer(flow_run: str, approve: bool, reason: str) -> None:
    """Answer the form of a firing that waits for a person, which then goes on.

    Raises:
        PreflowError: it does not wait any more.
    """
    from uuid import UUID

    with _client() as client:
        done = client.resume_flow_run(UUID(flow_run), run_input={"approve": approve, "reason": reason})
    if done.status.value not in ("ACCEPT",):
        raise PreflowError(f"the firing does not wait any more: {getattr(done.details, 'reason', done.status.value)}")


def collapse(deployment: str, until: datetime) -> int:
    """End the slots of a deployment that came due by then and have not begun; how many there were."""
    from uuid import UUID

    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Completed

    wanted = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[UUID(deployment)]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(before_=until),
    )
    with _client() as client:
        late = [one for one in client.read_flow_runs(flow_run_filter=wanted) if one.auto_scheduled]
        for one in late:
            state = Completed(name="Skipped", message=f"late: the firing that ended at {until:%H:%M:%S} answers for it")
            client.set_flow_run_state(one.id, state, force=True)
    return len(late)


@contextmanager
def _client() -> Iterator[Any]:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        raise DependencyDown(f"the Prefect server did not do it: {str(error).splitlines()[0]}") from None


def _ours(client: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return list(client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW]))))


def _found(client: Any, name: str) -> Any:
    there = {one.name: one for one in _ours(client)}
    if name not in there:
        raise PreflowError(f"there is no schedule {name}; there are: {', '.join(sorted(there)) or 'none'}")
    return there[name]


def _told(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment as Prefect's API writes it, in our words."""
    wanted = ("profile", "settings", "watch", "by_hand", "notify")
    return {
        "name": deployment["name"],
        "slots": [_slots(one["schedule"]) for one in deployment["schedules"]],
        "paused": bool(deployment["paused"]),
        "served": deployment.get("status") == "READY",
        **{key: deployment["parameters"].get(key) for key in wanted},
    }


def _slots(schedule: Mapping[str, Any]) -> str:
    for key in ("cron", "rrule"):
        if schedule.get(key):
            return f"{key} {schedule[key]}"
    return f"every {int(float(schedule['interval']))} s"


def _period(text: str) -> timedelta:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    if not text[:-1].isdigit() or text[-1:] not in units or int(text[:-1]) == 0:
        raise ValueError("expected a number and s, m, h or d, as 30s or 6h")
    return timedelta(**{units[text[-1]]: int(text[:-1])})


def _template() -> dict[str, Any]:
    from prefect.workers.process import ProcessWorker

    return dict(ProcessWorker.get_default_base_job_template())
