"""What Prefect knows of a pool: the pool itself, its deployment, its slots, and when a stage counts as dead.

Call `flows.server.start` before; nothing here imports Prefect before it is needed.
"""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from flows.pools.orders import BEAT, FLOW, WINDOW, Type
from flows.pools.templates import refuse_unfit
from flows.prefect_api import ask
from flows.schedule.schedule import connected, make_pool
from rlhf.errors import DependencyDown, PreflowError

CHECKOUT = "PREFLOW_CHECKOUT"
"""Of the worker, in the environment of what it starts."""
SLOTS = "PREFLOW_SLOTS"
"""Of a process worker, too: the slots that a stage takes, with commas. In a container it has none, as nobody else has
its devices."""
ENTRYPOINT = "flows.pools.stage_flow.stage"
AUTOMATION = f"{FLOW}: dead"


def register(pool: str, kind: Type, template: Mapping[str, Any], slots: Sequence[str]) -> None:
    """Make, or bring up to date, all that a worker of a pool needs at its server, with the `slots` that it takes.

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
        for slot in slots:
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


def slots_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the slots that a stage takes, all or none of them: one for each device that it may use of this host.

    Workers that have a device in common take turns, whatever their pools and however they name it; Prefect lends slots
    and takes them back from who dies.
    """
    return tuple(f"preflow-{platform.node()}-{device}" for device in _devices(environ))


def _devices(environ: Mapping[str, str]) -> list[str]:
    """GPUs by number, all that there are where nobody says which; `cpu` where none is to be used."""
    there, asked = _gpus(), environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return [f"gpu-{number}" for number in there] or ["cpu"]
    found = set()
    for name in filter(None, map(str.strip, asked.split(","))):
        if name == "-1":  # CUDA sees nothing of what stands behind it
            break
        known = [number for number, uuid in there.items() if uuid.startswith(name)]
        found.add(re.sub(r"[^\w-]+", "_", known[0] if len(known) == 1 else name))
    return [f"gpu-{name}" for name in sorted(found)] or ["cpu"]


def _gpus() -> dict[str, str]:
    """Those of this host, UUID by number; none where NVIDIA's driver does not answer."""
    query = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
        return {number.strip(): uuid.strip() for number, _, uuid in (line.partition(",") for line in told.splitlines())}
    return {}


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
