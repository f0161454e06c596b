"""What the stages of a run cost, as a table after its last line and as the rows of its page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.costs import KINDS, NOW, Cost, total

if TYPE_CHECKING:
    from rich.table import Table

    from flows.request import Report

COLUMNS = {
    **{f"seconds_{kind}": kind for kind in KINDS},
    "tokens_processed": "tokens",
    "tokens_trained": "trained",
    "tokens_sampled": "sampled",
    "tokens_per_second": "tokens/s",
    "memory": "GiB",
    "flops": "TFLOP",
    "matmul_share": "of matmul",
}
SHORT = {"seconds_orchestration": "around", "tokens_per_second": "tok/s", "matmul_share": "matmul"}
NARROW = ("tokens_processed", "tokens_per_second", "memory", "flops")


def table(report: "Report", plain: bool, width: int) -> "Table | None":
    """A row a stage, of a cached one what it cost when it ran; None where nothing is known. In few columns where all of
    them are wider than `width`."""
    from flows.report import takes

    if not report.costs:
        return None
    whole = _table(report, plain, [name for name in COLUMNS if name not in ("tokens_trained", "tokens_sampled")])
    return whole if takes(whole) <= width else _table(report, plain, NARROW)


def _table(report: "Report", plain: bool, shown: Sequence[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text("cost, in seconds; in brackets: cached, as it was when they ran", no_wrap=True, overflow="ignore")
    made = Table(title=title, title_justify="left", box=None if plain else SIMPLE_HEAD, pad_edge=False)
    made.add_column("stage", no_wrap=True)
    for name in ("seconds", *(SHORT.get(name, COLUMNS[name]) for name in shown)):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows(report):
        took = f"{row['now']} ({row['took']})" if row["state"] == "cached" else row["now"]
        style = "" if plain else {"cached": "dim", "": "bold"}.get(row["state"], "")
        made.add_row(row["name"], took, *(row["cells"][name] for name in shown), style=style)
    return made


def rows(report: "Report") -> Iterator[dict[str, Any]]:
    """Of each stage in the order of the run: name, state, seconds now and in all, cells by column, parts of its bar.

    The last one is the sum of what was spent in this run, without a state.
    """
    results = {one["name"]: one for one in report.stages}
    longest = max((one.get("seconds", 0.0) for one in report.costs.values()), default=0.0)
    for name, result in results.items():
        cost = report.costs.get(name, {})
        yield _row(name, result["state"], result.get("seconds") or 0.0, cost, longest)
    summed = total(report.costs, results)
    spent = sum((one.get("seconds") or 0.0) for one in results.values())
    yield _row("this run", "", spent, summed, 0.0)


def _row(name: str, state: str, now: float, cost: Cost, longest: float) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "now": seconds(now),
        "took": seconds(cost.get("seconds", 0.0)),
        "cells": {column: _cell(column, cost) for column in COLUMNS},
        "bar": [(kind, round(100 * part / longest, 1)) for kind, part in _parts(cost) if state in NOW and longest],
    }


def _parts(cost: Cost) -> Iterator[tuple[str, float]]:
    return ((kind, cost[f"seconds_{kind}"]) for kind in KINDS if cost.get(f"seconds_{kind}"))


def seconds(value: float) -> str:
    """ "0.3", "12.4", "1430"; "0" for less than a twentieth."""
    return "0" if value < 0.05 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cell(column: str, cost: Mapping[str, float]) -> str:
    if column == "memory":
        found = [f"{word}{cost[name]:.2f}" for name, word in _MEMORY.items() if cost.get(name)]
        return ", ".join(found) or "–"
    value = cost.get(column)
    if not value:
        return "–"
    if column.startswith("seconds_"):
        return seconds(value)
    if column == "flops":
        return f"{value / 1e12:.3g}" if value < 1e15 else f"{value / 1e12:,.0f}"
    return f"{value:.0%}" if column == "matmul_share" else count(value)


_MEMORY = {"peak_memory_gib": "", "peak_cuda_gib": "GPU "}


def count(value: float) -> str:
    """ "812", "45.6k", "1.23M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
