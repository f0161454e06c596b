"""The last lines of a run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import DataRefused, Preempted

if TYPE_CHECKING:
    from flows.request import Report


def summary(root: Path, report: "Report", tree: Path, *, to_stdout: bool) -> None:
    """The last lines: policies, gate, promotion, where to look, how to go on."""
    from flows import server

    out: Callable[[str], Any] = print if to_stdout else say
    if report.exit_code in (0, 4):
        _tables(tree / "data", to_stdout)
    counts = {state: sum(stage["state"] == state for stage in report.stages) for state in ("ran", "cached")}
    took = f"{counts['ran']} ran, {counts['cached']} cached, {report.seconds:.0f} s"
    out(f"run {report.run}: {took}; kept as {report.ref}")
    if report.worktree:
        out(f"worktree: {report.worktree}")
    here = server.running(root)
    if here:
        out(f"Prefect: {report.prefect}   (server stays up; `make stop` ends it, or 30 idle minutes do)")
    elif report.prefect:
        out(f"Prefect: {report.prefect}")
    out("MLflow: `make ui`")
    for stage in report.stages:
        if stage["state"] == "failed":
            out(f"{stage['name']} failed: {stage['reason']}")
    if report.exit_code == Preempted.exit_code:
        out("stopped; the same command goes on from here")
    refused = report.exit_code == DataRefused.exit_code
    if report.page:
        out(f"report: {report.page}")
    if report.validation and not refused:
        out(f"validation report: {report.validation}/report.html")
    if report.promotion:
        out(report.promotion["reason"])
    if report.validation and refused:
        out(f"what was refused, and why: {report.validation}/report.html")


def _tables(data: Path, to_stdout: bool) -> None:
    from rich.console import Console

    from flows.report import print_report

    console = Console(stderr=not to_stdout)
    print_report(data, console if console.is_terminal else Console(stderr=not to_stdout, width=120, no_color=True))


def say(text: str) -> None:
    """A line for people, beside what programs read."""
    print(text, file=sys.stderr, flush=True)
