"""What the stages of a run cost, read from journals: for the last table, the run's page and MLflow alike.

A stage that was not run cost nothing; told is what it cost when it wrote the bytes that are there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.journal import home
from tasks.lineage import Tree, matches

Cost = dict[str, float]
"""`seconds` (all of it), `seconds_<kind>`, `tokens_<what>`, `flops`, …; what is not known is left out."""
Results = Mapping[str, Mapping[str, Any]]

KINDS = ("sample", "score", "train", "save", "other", "orchestration")
NOW = ("ran", "failed", "stopped")
"""States of stages that cost something in this run."""
TOKENS = ("tokens_processed", "tokens_trained", "tokens_sampled")
SUMMED = ("seconds", *(f"seconds_{kind}" for kind in KINDS), *TOKENS, "flops")
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What comes of reading a record that is gone, torn, empty or of another form."""


def costs_of(root: Path, run: str, tree: Tree, results: Results) -> dict[str, Cost]:
    """By stage, of a cached one what it cost then. Stages of which nothing is known are left out.

    A record that is damaged tells nothing: what a run cost is worth no trouble at its end.
    """
    found = {}
    for stage, result in results.items():
        with suppress(*_DAMAGED):
            if cost := _cost(root, run, tree, stage, result):
                found[stage] = cost
    return found


def total(costs: Mapping[str, Mapping[str, float]], results: Results) -> Cost:
    """Sums over the stages that cost something in this run."""
    now = [cost for stage, cost in costs.items() if results[stage]["state"] in NOW]
    return {name: sum(cost.get(name, 0.0) for cost in now) for name in SUMMED}


def _cost(root: Path, run: str, tree: Tree, stage: str, result: Mapping[str, Any]) -> Cost:
    if result["state"] == "cached":
        return _then(root, tree, stage)
    if result["state"] not in NOW:
        return {}
    journals = home(root) / "journal" / run
    ends = (end["cost"] for _, end in _ends(journals.glob(f"{stage}-*/events.jsonl"), stage))
    return _whole(next(ends, {}), result.get("seconds"))


def _then(root: Path, tree: Tree, stage: str) -> Cost:
    """As the newest journal has it of an attempt, in any run, that wrote what is locked now."""
    for folder, end in _ends((home(root) / "journal").glob(f"*/{stage}-*/events.jsonl"), stage):
        if matches(tree, stage, end.get("outs") or {}):
            return _whole(end["cost"], _seconds(folder.parent / "finish.json", stage))
    return {}


def _ends(paths: Iterator[Path], stage: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders of attempts at a stage that came to an end, newest first, each with its last event."""
    mine = [path for path in paths if path.parent.name.rsplit("-", 1)[0] == stage]
    for path in sorted(mine, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(*_DAMAGED):
            end = json.loads(path.read_bytes().splitlines()[-1])
            if end.get("event") == "end" and end.get("cost"):
                yield path.parent, end


def _seconds(path: Path, stage: str) -> float | None:
    """How long the flow waited for a stage of an earlier run; of one by hand nobody knows."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["results"][stage]
        return float(told["seconds"]) if told["state"] == "ran" else None
    except _DAMAGED:
        return None


def _whole(own: Mapping[str, float], waited: float | None) -> Cost:
    """What the function said of itself, with what was around it and the rates that follow."""
    function = sum(seconds for name, seconds in own.items() if name.startswith("seconds_"))
    if not own:
        return {}
    cost = dict(own) | {"seconds": max(waited or 0.0, function)}
    if waited:
        cost["seconds_orchestration"] = max(0.0, waited - function)
    if own.get("tokens_processed") and function:
        cost["tokens_per_second"] = own["tokens_processed"] / function
    computing = sum(own.get(f"seconds_{kind}", 0.0) for kind in ("sample", "score", "train"))
    if own.get("matmul_rate") and computing:
        cost["matmul_share"] = own["flops"] / computing / own["matmul_rate"]
    return cost
