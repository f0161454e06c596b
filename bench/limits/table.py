"""A part's table: a measure a line, a size a column, and how the measure grows from one size to the next."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from bench.page import table

Record = Mapping[str, Any]


def medians(record: Record, measure: str) -> dict[int, float]:
    """By size, where the measure was taken."""
    points = {int(size): kept["point"] for size, kept in record["sizes"].items()}
    return {size: statistics.median(points[size][measure]) for size in sorted(points) if measure in points[size]}


def power(found: Mapping[int, float]) -> float | None:
    """With which power of the size a measure grows between the two largest: 1 where ten times takes ten times."""
    if len(found) < 2 or min(list(found.values())[-2:]) <= 0:
        return None
    (small, less), (large, more) = list(found.items())[-2:]
    return math.log(more / less) / math.log(large / small)


def grown(found: Mapping[int, float], size: float) -> float:
    """The measure at a size beyond the largest, on the straight line through the two largest, which start-up does not
    bend; what has not grown stays as it is."""
    (small, less), (large, more) = list(found.items())[-2:]
    return more + max(0.0, more - less) / (large - small) * (size - large)


def part_lines(by: str, record: Record) -> list[str]:
    """The table, and what it was measured on."""
    if not record["sizes"]:
        return ["Nothing is measured yet."]
    sizes = sorted(map(int, record["sizes"]))
    names = dict.fromkeys(name for kept in record["sizes"].values() for name in kept["point"])
    rows = []
    for name in names:
        found = medians(record, name)
        grows = power(found)
        cells = [shown(name, found[size]) if size in found else "–" for size in sizes]
        rows.append([name, *cells, "–" if grows is None else f"{grows:.2f}"])
    loads = [kept["load"] for kept in record["sizes"].values()]
    commits = sorted({kept["commit"] for kept in record["sizes"].values()})
    programs = ", ".join(f"{name} {number}" for name, number in record["programs"].items())
    said = (
        f"Processor seconds, all processes together, unless said. {record['machine']}, on one of them with others "
        f"beside it (load {min(loads):g} to {max(loads):g}). {programs}. Commits {', '.join(commits)}."
    )
    header = [f"by {by}", *(f"{size:,}" for size in sizes), "power"]
    return [*table(header, rows), "", said]


def shown(name: str, value: float) -> str:
    """As its name says, or else as seconds."""
    if name.endswith(", bytes"):
        return amount(value, "B")
    if name.endswith(", number"):
        return f"{value:,.0f}"
    if name.endswith(", share of a core"):
        return f"{value:.2f}"
    return duration(value)


def amount(value: float, unit: str) -> str:
    """`1.2 GB`."""
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Three digits: `4.1 ms`, `12.3 s`, `2.4 h`, `11 days`."""
    for limit, divisor, unit in ((1, 1e-3, "ms"), (600, 1, "s"), (36_000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}"
    return f"{seconds / 86_400:,.3g} days" if seconds < 86_400_000 else f"{seconds / 86_400:,.0f} days"
