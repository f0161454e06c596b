"""Prefect on Postgres: a work pool with many flow runs that wait, and a flow of many tasks."""

import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from bench.limits.record import Point, programs
from bench.limits.servers import Running, postgres_version, serving

POOL = "gpus"


def installed() -> dict[str, str]:
    return programs("prefect", "asyncpg") | {"postgres": postgres_version()}


def queued(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By flow runs that wait in one pool, and by tasks in one flow."""
    with serving("prefect") as server:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            submit = _deployed(client)
            waiting: list[Any] = []
            for size in sorted(sizes):
                waiting += [submit() for _ in range(size - len(waiting))]
                server.maintain("prefect")
                yield size, _point(server, client, submit, waiting[-1].deployment_id) | _tasks(server, size)


def _deployed(client: Any) -> Callable[[], Any]:
    """A deployment as `preflow schedule` makes them; each call queues one more run of it."""
    from prefect.client.schemas.actions import WorkPoolCreate

    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    flow = client.create_flow_from_name("retrain")
    deployment = client.create_deployment(flow, "wide", work_pool_name=POOL, entrypoint="flows.retrain.flow.retrain")
    return partial(client.create_flow_run_from_deployment, deployment)


def _point(server: Running, client: Any, submit: Callable[[], Any], deployment: Any) -> Point:
    from prefect.client.schemas import filters
    from prefect.states import Cancelled

    def cancelled() -> None:
        client.set_flow_run_state(submit().id, Cancelled())

    of_pool = filters.FlowRunFilter(deployment_id=filters.FlowRunFilterDeploymentId(any_=[deployment]))
    each = server.clock.each
    submitting, both = each(submit), each(cancelled)
    return {
        "submit one": submitting,
        "submit one and cancel it": both,
        "poll of a worker": each(partial(_poll, client)),
        "found by one poll, number": [float(len(_poll(client)))],
        "first page of flow runs": each(partial(client.read_flow_runs, flow_run_filter=of_pool)),
        "server at rest, share of a core": [_at_rest(server)],
    }


def _poll(client: Any) -> list[Any]:
    """As a worker asks every few seconds."""
    before = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    answer = client._client.post(f"/work_pools/{POOL}/get_scheduled_flow_runs", json={"scheduled_before": before})
    answer.raise_for_status()
    found: list[Any] = answer.json()
    return found


def _at_rest(server: Running) -> float:
    began, used = time.monotonic(), server.clock.used()
    time.sleep(10)
    return (server.clock.used() - used) / (time.monotonic() - began)


def _tasks(server: Running, size: int) -> Point:
    """A flow whose tasks do nothing, run in this process as `preflow run` runs its stages: one after the other."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    nothing = task(lambda: None, name="nothing", cache_policy=NO_CACHE, persist_result=False)

    def body() -> None:
        for _ in range(size):
            nothing()

    return {"a flow of as many tasks": [server.clock.once(flow(body, name=f"of {size}"))]}
