"""MLflow on Postgres: what a server that has many runs, or many versions, answers to itself and to preflow."""

import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

from bench.limits import fill
from bench.limits.clock import Clock
from bench.limits.record import Point, programs
from bench.limits.servers import Running, postgres_version, serving
from tests.tasks import toy_runs

EXPERIMENT, MODEL = "preflow", "policy"
STEPS = 200
"""Points of each stage of the toy pipeline."""


def installed() -> dict[str, str]:
    return programs("mlflow", "psycopg2-binary") | {"postgres": postgres_version()}


def runs(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By runs in one experiment, of 1,000 points each."""
    with serving("mlflow") as server, tempfile.TemporaryDirectory() as name:
        client, experiment = _opened(Path(name))
        there = 0
        for size in sorted(sizes):
            fill_up = partial(server.sql, "mlflow", *fill.runs(experiment, there, size - 1))
            filled = server.clock.once(fill_up) / (size - there)
            there = size
            server.maintain("mlflow")
            point = _pipelines(Path(name) / str(size), client, experiment, server.clock)
            point |= _questions(client, experiment, size, server.clock) | _sizes(server)
            yield size, point | {"SQL instead, 1,000 points": [filled * 1000 / fill.POINTS]}


def registry(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By versions of one registered model; `champion` is the oldest of them."""
    from tasks import tracking

    with serving("mlflow") as server, tempfile.TemporaryDirectory() as name:
        root = Path(name)
        client, _ = _opened(root)
        client.create_registered_model(MODEL)
        each, there = server.clock.each, 0
        for size in sorted(sizes):
            server.sql("mlflow", *fill.versions(MODEL, there + 1, size))
            server.maintain("mlflow")
            there = size
            champion = partial(tracking.champion, root, MODEL)
            middle = partial(tracking.holding, root, MODEL, fill.version_md5(size // 2))
            right = [(champion() or {}).get("version") == 1, middle() == size // 2]
            yield (
                size,
                {
                    "version of an alias": each(partial(client.get_model_version_by_alias, MODEL, "champion")),
                    "first 100 versions": each(
                        partial(client.search_model_versions, f"name = '{MODEL}'", max_results=100)
                    ),
                    "preflow: champion": each(champion, blocks=1),
                    "preflow: version of a policy": each(middle, blocks=1),
                    "preflow: right answers of these two, number": [sum(right)],
                },
            )


def _opened(root: Path) -> tuple[Any, str]:
    """A client of the server that the environment names, and the id of the experiment that preflow makes."""
    from tasks.tracking.store import connect

    store = connect(root)
    return store.client, store.experiment(EXPERIMENT)


def _questions(client: Any, experiment: str, size: int, clock: Clock) -> Point:
    page = partial(client.search_runs, [experiment], max_results=100)
    tag = "tags.`preflow.run` = 'filled-3' AND tags.`preflow.kind` = 'pipeline'"
    history = partial(client.get_metric_history, fill.run_of(size // 2), "rl/measure7")
    return {
        "log_batch of 1,000 points": clock.each(_logging(client, experiment)),
        "first 100 runs, newest first": clock.each(page),
        "first 100 runs by a metric": clock.each(partial(page, order_by=["metrics.`rl/measure7` DESC"])),
        "history of one metric": clock.each(history),
        "preflow: a run by its name": clock.each(partial(client.search_runs, [experiment], tag, max_results=1)),
    }


def _logging(client: Any, experiment: str) -> Callable[[], None]:
    """Logs further 1,000 points of one run each time."""
    from mlflow.entities import Metric

    run = client.create_run(experiment, tags={"preflow.kind": "bench"}).info.run_id
    steps, now = count(step=fill.POINTS // fill.KEYS), int(time.time() * 1000)

    def log() -> None:
        first = next(steps)
        points = [
            Metric(f"rl/measure{key}", 0.5, now, first + step)
            for key in range(fill.KEYS)
            for step in range(fill.POINTS // fill.KEYS)
        ]
        client.log_batch(run, metrics=points)

    return log


def _pipelines(folder: Path, client: Any, experiment: str, clock: Clock) -> Point:
    """The toy's five stages, told as `preflow run` does: from the first word to the end, nothing else."""
    from tasks.lineage import Linker, read_tree

    ran, cached = [], []
    for number in range(3):
        root, run = toy_runs.write_tree(folder / str(number)), f"{folder.name}-{number}"
        ran.append(_told(root, run, "ran", clock, gold=int(folder.name) + number / 10))
        cached.append(_told(root, f"{run}-again", "cached", clock))
    linker = Linker(client, experiment, "none", read_tree(root))
    if linker.producer("rl") is None:
        raise SystemExit("the run that wrote the policy is not found")
    return {
        "preflow: a pipeline told, all ran": ran,
        "preflow: a pipeline told, all cached": cached,
        "preflow: which run wrote this": clock.each(partial(linker.producer, "rl")),
    }


def _told(root: Path, run: str, state: Literal["ran", "cached"], clock: Clock, gold: float | None = None) -> float:
    from tasks import tracking
    from tasks.outcome import StageResult

    took = clock.once(partial(tracking.begin_run, root, run, {"name": run}))
    if gold is not None:
        toy_runs.run_all(root, run, gold=gold, steps=STEPS)
    results = {stage: StageResult(stage, state, 1.0) for stage in toy_runs.STAGES}
    return took + clock.once(partial(tracking.finish_run, root, run, results, "FINISHED"))


def _sizes(server: Running) -> Point:
    asked = {
        "points, number": "select count(*) from metrics",
        "points with indexes, bytes": "select pg_total_relation_size('metrics')",
        "all tables, bytes": "select pg_database_size('mlflow')",
    }
    return {name: [float(server.sql("mlflow", query)[0][0])] for name, query in asked.items()}
