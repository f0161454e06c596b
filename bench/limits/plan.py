"""Where each part gives, worked out from what is kept: the size at which it takes a day, a terabyte, or a minute.

Beyond the sizes that were measured, a measure is taken to grow on the line through the two largest; of one size nothing
is said.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.limits.record import load
from bench.limits.table import Record, amount, duration, grown, medians
from bench.page import table

HOSTS, QUEUED, ROWS, RUNS = 1_000 // 8, 1_000, 10**9, 10**5
"""Eight GPUs a host, a worker a host."""
POLL = 3
"""Seconds from one question of a worker to the next: `PREFECT_WORKER_QUERY_SECONDS` of `preflow worker`."""
DAY, MINUTE, HOST, STORE = 86_400.0, 60.0, 1e12, 1e15
"""What a stage may take, what a person waits; bytes of a large host, memory or disk, and of an object store."""
MLFLOW_RUNS, POINTS = 14, 16_467
"""Of one pipeline of the embedded default: `select count(*) from runs` and `from metrics` after `make run`."""
MODELS, WEIGHTS = 7, 8.03e9
"""That a pipeline keeps: sft, two reward models, selection and its control, rl, dpo. Each of Llama 3.1 8B, two bytes a
weight."""
GROWTH = Path(__file__).parents[1] / "growth/results"


@dataclass(frozen=True)
class Line:
    """One part: what it comes to at the size asked for, and with what size it comes to what is bearable."""

    part: str
    at: float
    limit: float
    size: int
    unit: str
    tell: Callable[[float], str]

    @property
    def share(self) -> float:
        """Of the size asked for that is bearable, if it grows in proportion; more than 1 holds."""
        return self.limit / self.at

    def cells(self) -> list[str]:
        where = f"{self.size * self.share:,.2g} {self.unit}" if self.share < 1 else "holds"
        return [self.part, f"{self.size:,} {self.unit}", self.tell(self.at), self.tell(self.limit), plain(where)]


def plain(text: str) -> str:
    """Without an exponent that Python writes."""
    number, _, rest = text.partition(" ")
    return f"{float(number):,.0f} {rest}" if "e+" in number else text


def lines() -> list[str]:
    """What gives first comes first."""
    found = sorted([*_of_rows(), *_of_git(), *_of_mlflow(), *_of_prefect()], key=lambda line: line.share)
    header = ["part, as it is", "asked for", "comes to", "bearable", "gives at"]
    return table(header, [line.cells() for line in found], texts=2)


def _of_rows() -> list[Line]:
    found, rows, dvc = [], load("rows"), load("dvc")
    for stage, name in (("prepare", "`prepare`"), ("validate", "the data gate")):
        seconds, held = per_row(json.loads((GROWTH / f"{stage}.json").read_text("utf-8"))["points"])
        found += [
            Line(f"{name}: one process", seconds * ROWS, DAY, ROWS, "rows", duration),
            Line(f"{name}: memory", held * ROWS, HOST, ROWS, "rows", _bytes),
        ]
    if len(rows["sizes"]) > 1:
        held = medians(rows, "pairs and their tokens in memory, bytes")
        size = _last(rows, "a prepared pair, bytes") * ROWS
        found += [
            Line("training: pairs in memory", grown(held, ROWS), HOST, ROWS, "rows", _bytes),
            Line("DVC: hashing one file of all rows", size / _last(rows, "MD5 a second, bytes"), DAY, ROWS, "rows",
                 duration),
        ]  # fmt: skip
    if len(dvc["sizes"]) > 1:
        for measure in ("first commit", "status, nothing remembered", "status, remembered"):
            at = grown(medians(dvc, measure), ROWS)
            found.append(Line(f"DVC, were each row a file: {measure}", at, DAY, ROWS, "rows", duration))
    models = MODELS * WEIGHTS * 2 * RUNS
    return [*found, Line("DVC remote: models of 8B, none pruned", models, STORE, RUNS, "runs", _bytes)]


def per_row(points: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds and bytes of a further row, from what `python -m bench.growth` keeps of a stage."""
    first, last = points["1"], points["30"]
    rows = last["rows"] - first["rows"]
    return (
        (last["processor_seconds"] - first["processor_seconds"]) / rows,
        (last["peak"] - first["peak"]) * 2**20 / rows,
    )


def _of_git() -> list[Line]:
    found = []
    for part, measure, name in (
        ("git", "fetch with nothing new", "git: a fetch that brings nothing"),
        ("git", "push of one more", "git: the push of a run"),
        ("git-read", "lineage: graph and lock of every run", "`lineage`, `withdraw`: every run read"),
        ("git-read", "prune: what every lock names", "`prune`: every lock read"),
    ):
        record = load(part)
        if len(record["sizes"]) > 1:
            found.append(Line(name, grown(medians(record, measure), RUNS), MINUTE, RUNS, "runs", duration))
    return found


def _of_mlflow() -> list[Line]:
    found, runs, registry = [], load("mlflow"), load("registry")
    if len(runs["sizes"]) > 1:
        points = RUNS * POINTS
        size = _last(runs, "points with indexes, bytes") / _last(runs, "points, number")
        logging = _last(runs, "log_batch of 1,000 points") / 1000
        page = medians(runs, "first 100 runs by a metric")
        found += [
            Line("MLflow: points on disk", size * points, HOST, RUNS, "runs", _bytes),
            Line("MLflow: logging, all runs in one day, one core", logging * points, DAY, RUNS, "runs", duration),
            Line("MLflow: a page of runs by a metric", grown(page, RUNS * MLFLOW_RUNS), MINUTE, RUNS, "runs", duration),
        ]
    if len(registry["sizes"]) > 1:
        asked = medians(registry, "preflow: champion")
        found.append(Line("MLflow: who is champion", grown(asked, RUNS), MINUTE, RUNS, "versions", duration))
    return found


def _of_prefect() -> list[Line]:
    record = load("prefect")
    if len(record["sizes"]) < 2:
        return []
    polls = grown(medians(record, "poll of a worker"), QUEUED) * HOSTS / POLL
    return [Line("Prefect: polls while 1,000 wait, cores", polls, 1.0, HOSTS, "workers", lambda cores: f"{cores:.2g}")]


def _last(record: Record, measure: str) -> float:
    found = medians(record, measure)
    return found[max(found)]


def _bytes(value: float) -> str:
    return amount(value, "B")
