"""The last lines of a run."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rlhf.errors import DataRefused, Preempted
from tasks.outcome import State
from tasks.redact import logged

DONE = (0, 4)
"""Exit codes of a run whose stages are all done."""

if TYPE_CHECKING:
    from flows.request import Report


def summary(root: Path, report: "Report", tree: Path, *, to_stdout: bool) -> None:
    """The last lines: policies, gate, where to look, how to go on, what came of it."""
    from flows.view_lines import clock  # with rich, which `preflow --help` can do without

    out: Callable[[str], Any] = print if to_stdout else say
    if report.exit_code in DONE:
        _tables(report, tree / "data", to_stdout)
    counts = Counter(str(stage["state"]) for stage in report.stages)
    told = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    nothing = "nothing to do, " * (set(counts) == {"cached"})
    out(f"run {report.run}: {nothing}{told}, {clock(report.seconds)}")
    for name, value in _where(root, report):
        out(f"  {name:10} {value}")
    failed = [stage for stage in report.stages if stage["state"] == "failed"]
    for stage in failed:
        out(f"{stage['name']} failed: {stage['reason']}")
    if report.exit_code == Preempted.exit_code:
        stopped = [stage["name"] for stage in report.stages if stage["state"] == "stopped"]
        out(f"stopped{' in ' * bool(stopped)}{', '.join(stopped)}; the same command goes on from there")
    if report.promotion:
        pushed = ", ".join(report.promotion.get("pushed") or ())
        further = report.promotion.get("unsent") or (f"sent to {pushed}" if pushed else "")
        out("; ".join(filter(None, [report.promotion["reason"], further])))
    named = any("report.html" in str(stage["reason"]) for stage in failed)  # a data gate ends with where its page is
    if report.validation and report.exit_code == DataRefused.exit_code and not named:
        out(f"what was refused, and why: {report.validation}/report.html")


def _where(root: Path, report: "Report") -> Iterator[tuple[str, str]]:
    """Where to look, and how to get the same again; each a name and what to open or type."""
    from flows import server
    from tasks.journal import home

    yield "kept as", report.ref
    if report.exit_code in DONE:
        yield "again", f"preflow reproduce {report.run}"
    if report.page:
        yield "report", _near(root, report.page)
    yield "MLflow", " ".join(["make ui", *_page(report)])
    if report.prefect:
        yield "Prefect", report.prefect
        if server.running(root):
            yield "", "its server stays up; `make stop` ends it, or 30 idle minutes do"
    if report.validation and report.exit_code != DataRefused.exit_code:
        yield "data", _near(root, f"{report.validation}/report.html")
    if report.worktree:
        yield "worktree", report.worktree
    if report.exit_code not in DONE:
        yield "logs", str(home(root) / "journal" / report.run)


def _near(root: Path, path: str) -> str:
    """As it is typed in the checkout."""
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _page(report: "Report") -> Iterator[str]:
    """This run's page there, once it is up."""
    if report.mlflow.get("run"):
        yield f"  http://127.0.0.1:5000/#/experiments/{report.mlflow['experiment']}/runs/{report.mlflow['run']}"


def _tables(report: "Report", data: Path, to_stdout: bool) -> None:
    from rich.console import Console

    from flows import costs
    from flows.report import print_report

    console = Console(stderr=not to_stdout)
    console = console if console.is_terminal else Console(stderr=not to_stdout, width=120, no_color=True)
    print_report(data, console)
    if table := costs.table(report, plain=not console.is_terminal, width=console.width):
        console.print(table, "")


def say(text: str) -> None:
    """A line for people, beside what programs read."""
    print(logged(text), file=sys.stderr, flush=True)
