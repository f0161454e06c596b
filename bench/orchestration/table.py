"""The table of docs/speed.md on what runs the stages."""

from collections.abc import Mapping
from typing import Any

from bench import page
from bench.orchestration.parts import PARTS

BUSY = 0.2
"""Cores busy with something else, on average over a run, above which the table says so."""


def lines(columns: Mapping[str, Mapping[str, Any]], machine: str, commit: str) -> list[str]:
    """Markdown: a column a run, a line a part, and what it was measured on."""
    runs = columns.values()
    rows = [["**wall time, s**", *(f"**{run['seconds']:.1f}**" for run in runs)]]
    rows += [[text, *(f"{run['parts'][part]:.1f}" for run in runs)] for part, text in PARTS.items()]
    rows += [
        ["of the wall time not in stages", *(f"{rest(run):.1f}" for run in runs)],
        ["sum over stages, some side by side", *(f"{run['stage_seconds']:.1f}" for run in runs)],
        ["processor time of the command, s", *(f"{run['processor']['command']:.1f}" for run in runs)],
        ["processor time of Prefect's server meanwhile, s", *(f"{run['processor']['server']:.1f}" for run in runs)],
    ]
    busy = max(run["others"] for run in runs)
    beside = f" Beside other load, {busy:.1f} cores of it: no figures to cite." if busy > BUSY else ""
    return [*page.table(["", *columns], rows), "", f"{machine}; {commit}.{beside}"]


def rest(run: Mapping[str, Any]) -> float:
    """Seconds in which no stage's function was at work."""
    return float(run["seconds"] - run["parts"]["stages"])
