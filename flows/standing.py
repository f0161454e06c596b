"""How a project stands, in one sentence: what goes on in it, or what the next run would do and why."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import history
from flows.going_on import At, Going
from flows.runner import SIDE_BY_SIDE, last_event
from flows.view_lines import clock
from rlhf.errors import DataRefused
from tasks.graph import Graph, stage_key
from tasks.journal import home

MOST = 3  # things that a sentence names before it counts


def busy(going: Going, graph: Graph) -> str:
    """Of a checkout that something is at work in."""
    between = f"{going.after} is done, and what comes next begins" if going.after else "getting ready"
    at = " and ".join(_step(one, graph) for one in going.at) or between
    return f"{going.what}: {at}; Ctrl-C there ends it" if going.what.startswith("run ") else f"{going.what} goes on"


def idle(
    graph: Graph, changed: Mapping[str, Sequence[str]], may: Collection[str], fresh: bool, serving: str, took: str
) -> str:
    """Of a checkout that nothing is at work in.

    Args:
        changed: stages that differ from dvc.lock, with the reasons.
        may: these and all behind them.
        fresh: whether nothing was ever run here.
        serving: who the champion is, in words.
        took: how long the next run may take; "" where nobody knows.
    """
    if not may:
        return f"nothing to do: every stage is up to date, {serving}"
    stages = [name for name in graph.stages if name in may]
    if fresh:
        return f"nothing was run here yet: `preflow run` runs all {len(stages)} stages{took}"
    named = ", ".join(stages) if len(stages) < len(graph.stages) else f"all {len(stages)} stages"
    return f"{_why(graph, changed)}: `preflow run` would run {named}{took}; {serving}"


def estimate(root: Path, graph: Graph, params: Mapping[str, Any], may: Collection[str]) -> str:
    """How long these stages take, by earlier runs: ", about 2:10"; "" where some of them is not known."""
    before = history.seconds_before(root, graph, params, "")
    left = {name: before[name] for name in graph.stages if name in may and name in before}
    whole = len(left) == len(may)
    return f", about {clock(history.remaining(graph.upstream, left, SIDE_BY_SIDE))}" if whole else ""


def refusals(root: Path, graph: Graph, may: Collection[str]) -> dict[str, str]:
    """Why stages that the next run would begin with have refused the very same data before, and so would again."""
    first = [name for name in graph.stages if name in may and not set(graph.upstream[name]) & set(may)]
    return {name: reason for name in first if (reason := _refusal(root, graph, name))}


def elsewhere(others: Sequence[Going], graph: Graph) -> Iterator[str]:
    """A sentence on each run in a worktree of its own."""
    for one in others:
        yield f"in a worktree, {busy(one, graph)}"


def _refusal(root: Path, graph: Graph, name: str) -> str:
    """By the newest journal of a refusal: "" where there is none, or the stage would now do something else."""
    attempts = (home(root) / "journal").glob(f"*/{name}-*/events.jsonl")
    for path in sorted(attempts, key=lambda path: path.stat().st_mtime, reverse=True):
        end = last_event(path.parent, "end")
        if end is not None and end.get("exit_code") == DataRefused.exit_code:
            start = last_event(path.parent, "start") or {}
            return str(end["reason"]) if start.get("key") == stage_key(graph.stages[name], root) else ""
    return ""


def _step(at: At, graph: Graph) -> str:
    """ "rl, 12 of 100 updates": of what the params call by a name of its own, that name."""
    stage = graph.stages.get(at.stage)
    what = " updates" if stage and "tasks.rl " in stage.cmd else ""
    return f"{at.stage}, {at.done} of {at.total}{what}" if at.total else at.stage


def _why(graph: Graph, changed: Mapping[str, Sequence[str]]) -> str:
    """What has changed, by its kind: params, data, code, and what DVC says of anything else."""
    found: dict[str, list[str]] = {}
    for name, reasons in changed.items():
        for reason in reasons:
            kind, what = _kind(graph, name, reason)
            found.setdefault(kind, []).append(what)
    told = []
    for kind, things in found.items():
        each = list(dict.fromkeys(filter(None, things)))
        more = f" and {len(each) - MOST} more" if len(each) > MOST else ""
        told.append(kind + (f" ({', '.join(each[:MOST])}{more})" if each else ""))
    return ", ".join(told)


def _kind(graph: Graph, stage: str, reason: str) -> tuple[str, str]:
    what = reason.split(" ", 1)[0]
    if what in graph.stages[stage].params:
        return "params.yaml changed", what
    if what.startswith("data/"):
        return ("missing" if reason.endswith("deleted") else "data changed"), what
    if what in graph.stages[stage].deps:
        return "code changed", what
    return (reason, "") if " is " in reason else ("dvc.yaml changed", stage)
