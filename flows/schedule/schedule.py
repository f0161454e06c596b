"""Schedules of retrains: deployments of the flow `retrain` on the Prefect server, which may serve other projects too.

Call `flows.server.up` before; nothing here imports Prefect before it is needed.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.prefect_api import ask
from flows.project import project_id
from rlhf.errors import DependencyDown, PreflowError
from tasks.config import ConfigError

if TYPE_CHECKING:
    from flows.retrain.retrain import Order

FLOW = "retrain"
_NAME = re.compile(r"\w[\w.=+-]*")
_CRON = 'expected minute, hour, day of the month, month and weekday, as "0 3 * * *"'


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
            raise ConfigError(f"{given[0]!r} is no schedule: {_CRON if self.cron else _why(error)}") from None


def _why(error: ValueError) -> str:
    """In one sentence: pydantic writes three lines around what its validator said."""
    lines = str(error).splitlines()
    said = lines[2] if len(lines) > 2 else lines[0]
    return said.strip().partition(" [type=")[0].removeprefix("Value error, ")


def pool_of(root: Path) -> str:
    """The work pool of this project; whatever is of it has this as a tag too."""
    return f"preflow-{project_id(root)}"


def name_of(deployment: str) -> str:
    """What a schedule is called here; in Prefect it has the project behind it, as two may call theirs the same."""
    return deployment.partition("@")[0]


def create(root: Path, order: "Order", slots: Slots, notify: str) -> dict[str, Any]:
    """Make, or make anew, the deployment of an order; a URL of `notify` hears what comes of it.

    Raises:
        ConfigError: its name or slots cannot be.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    if order.name and not _NAME.fullmatch(order.name):
        raise ConfigError(f"{order.name!r} is no name: a schedule has one of letters, digits and `. _ = + -`")
    schedule, pool = slots.schedule(), pool_of(root)
    parameters = {"profile": order.profile, "settings": [*order.settings], "watch": [*order.watch]}
    with connected() as client:
        make_pool(client, pool)
        deployment = client.create_deployment(
            client.create_flow_from_name(FLOW),
            f"{order.key}@{project_id(root)}",
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
            parameters=parameters | {"by_hand": order.by_hand, "notify": notify},
            description="Retrains where data, parameters or code are new, promotes what passes the gate",
            work_pool_name=pool,
            tags=[pool],
            entrypoint="flows.retrain.flow.retrain",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}],
            paused=False,
        )
        return _told(client.read_deployment(deployment).model_dump(mode="json"))


def listed(root: Path, url: str) -> list[dict[str, Any]]:
    """This project's schedules on the server at this address, by name; Prefect itself is not imported for that."""
    return sorted(map(_told, _ours(root, url)), key=lambda one: str(one["name"]))


def pause(root: Path, name: str, paused: bool) -> dict[str, Any]:
    """Hold it, or let it go on; slots of the meantime do not fire later."""
    with connected() as client:
        deployment = _id_of(client, root, name)
        (client.pause_deployment if paused else client.resume_deployment)(deployment)
        return _told(client.read_deployment(deployment).model_dump(mode="json"))


def run_now(root: Path, name: str) -> dict[str, Any]:
    """A firing at once, besides its slots; `preflow schedule serve` takes it."""
    with connected() as client:
        made = client.create_flow_run_from_deployment(_id_of(client, root, name))
        return {"name": name, "flow_run": str(made.id)}


def delete(root: Path, name: str) -> None:
    """Take it away; what was retrained stays."""
    with connected() as client:
        client.delete_deployment(_id_of(client, root, name))


@contextmanager
def connected() -> Iterator[Any]:
    """A client of the server. What the server does not do ends as DependencyDown."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        raise DependencyDown(f"the Prefect server did not do it: {str(error).splitlines()[0]}") from None


def _ours(root: Path, url: str) -> list[dict[str, Any]]:
    """This project's deployments, as Prefect's API writes them."""
    wanted = {"flows": {"name": {"any_": [FLOW]}}, "deployments": {"tags": {"all_": [pool_of(root)]}}}
    try:
        return list(ask(f"{url}/deployments/filter", wanted))
    except (OSError, ValueError) as error:
        raise DependencyDown(f"the Prefect server did not do it: {error}") from None


def _id_of(client: Any, root: Path, name: str) -> UUID:
    there = {name_of(one["name"]): UUID(one["id"]) for one in _ours(root, str(client.api_url).rstrip("/"))}
    if name not in there:
        raise PreflowError(f"there is no schedule {name}; there are: {', '.join(sorted(there)) or 'none'}")
    return there[name]


def _told(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment as Prefect's API writes it, in our words."""
    wanted = ("profile", "settings", "watch", "by_hand", "notify")
    return {
        "name": name_of(deployment["name"]),
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


def make_pool(client: Any, name: str) -> None:
    """A work pool of type process, where there is none of this name."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = dict(ProcessWorker.get_default_base_job_template())
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
