"""What Prefect knows of a pool: the pool itself, its deployment, its slots, and when a stage counts as dead.

Call `flows.server.start` before; nothing here imports Prefect before it is needed.
"""

import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_args

from flows.pools.orders import BEAT, FLOW, WINDOW, Type
from flows.pools.templates import refuse_unfit
from flows.prefect_api import ask
from flows.schedule import connected, make_pool
from rlhf.errors import DependencyDown, PreflowError

CHECKOUT = "PREFLOW_CHECKOUT"
"""Of the worker, in the environment of what it starts."""
SLOT = "PREFLOW_SLOT"
"""Of a process worker, too: the slot that a stage takes. In a container it has none, as nobody else has its devices."""
ENTRYPOINT = "flows.pools.stage_flow.stage"
AUTOMATION = f"{FLOW}: dead"


def register(pool: str, kind: Type, template: Mapping[str, Any], slot: str) -> None:
    """Make, or bring up to date, all that a worker of a pool needs at its server; `slot` is "" where none is taken.

    Raises:
        PreflowError: there is such a pool, of another type than this worker is.
        DependencyDown: Prefect did not answer.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists

    with connected() as client:
        _make(client, pool, kind, template)
        client.create_deployment(
            client.create_flow_from_name(FLOW),
            pool,
            description="One stage of a preflow run, on a worker",
            work_pool_name=pool,
            entrypoint=ENTRYPOINT,
            enforce_parameter_schema=False,
        )
        if slot:
            with suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=slot, limit=1))
        _watch_over_stages(str(client.api_url).rstrip("/"))


def _make(client: Any, pool: str, kind: Type, template: Mapping[str, Any]) -> None:
    """The pool. What its containers are like, whoever serves it says at each start; a limit that people have set stays.

    A Docker host does one stage at a time, as nothing else divides its GPUs: `docker` begins with that limit.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    if kind == "process":
        make_pool(client, pool)
    else:
        limit = 1 if kind == "docker" else None
        made = WorkPoolCreate(name=pool, type=kind, base_job_template=dict(template), concurrency_limit=limit)
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(made)
    there = client.read_work_pool(pool).type
    if there not in (types := get_args(Type)):
        raise PreflowError(f"work pool {pool} is of type {there}; stages go to pools of type {', '.join(types)}")
    if there != kind:
        raise PreflowError(
            f"work pool {pool} is of type {there}, and this worker of type {kind}: "
            f"`preflow worker --pool {pool} --type {there}`, or another --pool"
        )
    if kind != "process":
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=dict(template)))


def refuse_variables(pool: str, values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a pool has no such job variables; nothing where there is no such pool yet."""
    from prefect.exceptions import ObjectNotFound

    with connected() as client, suppress(ObjectNotFound):
        refuse_unfit(values, client.read_work_pool(pool).base_job_template, f"work pool {pool}")


def slot_of(environ: Mapping[str, str]) -> str:
    """Name of the one slot that a stage takes: the devices that it may use of this host.

    Workers that share devices take turns, whatever their pools; Prefect lends a slot and takes it back from who dies.
    """
    devices = re.sub(r"[^\w-]+", "_", environ.get("CUDA_VISIBLE_DEVICES", "").strip())
    return f"preflow-{platform.node()}-{f'cuda-{devices}' if devices else 'all'}"


def online(pool: str) -> int:
    """How many workers of a pool have been heard of lately. Raises DependencyDown where Prefect does not answer."""
    with connected() as client:
        url = str(client.api_url).rstrip("/")
    try:
        return sum(one["status"] == "ONLINE" for one in ask(f"{url}/work_pools/{pool}/workers/filter", {}))
    except (OSError, ValueError) as error:
        raise DependencyDown(f"Prefect did not say who serves pool {pool}: {error}") from None


def _watch_over_stages(url: str) -> None:
    """Have Prefect call a stage Crashed that gives no sign of life for `WINDOW` seconds, however its worker ended.

    Only stages: other flows may beat more slowly, or not at all.
    """
    wanted = {
        "name": AUTOMATION,
        "description": f"a stage of preflow without a sign of life for {WINDOW} s is dead, and its run sends it again",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOW},
            "after": ["prefect.flow-run.Running", "prefect.flow-run.heartbeat"],
            "expect": [
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")),
            ],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": WINDOW,
        },
        "actions": [
            {"type": "change-flow-run-state", "state": "CRASHED", "message": f"no sign of life for {WINDOW} s"}
        ],
    }
    try:
        found = ask(f"{url}/automations/filter", {"automations": {"name": {"any_": [AUTOMATION]}}})
        if not found:
            ask(f"{url}/automations/", wanted)
    except (OSError, ValueError) as error:
        raise DependencyDown(f"Prefect did not take the automation that finds dead stages: {error}") from None


def settings() -> dict[str, str]:
    """Variables of the process that takes stages off a pool, and so of every stage."""
    return {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT),
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "3"),
    }
