"""What the stages of a run cost, read from journals: for the last table, the run's page and MLflow alike.

A stage that was not run cost nothing; told is what it cost when it wrote the bytes that are there.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.spending import COMPUTING
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


def costs_of(root: Path, run: str, tree: Tree, results: Results) -> dict[str, Cost]:
    """By stage, of a cached one what it cost then. Stages of which nothing is known are left out.

    A record that is damaged tells nothing: what a run cost is worth no trouble at its end.
    """
    found = {}
    for stage, result in results.items():
        with suppress(OSError):  # cleared away while it is looked for
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
        if matches(tree, stage, end["outs"]):
            return _whole(end["cost"], _seconds(folder.parent / "finish.json", stage))
    return {}


def _ends(paths: Iterator[Path], stage: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders of attempts at a stage that came to an end, newest first, each with its last event."""
    mine = [path for path in paths if path.parent.name.rsplit("-", 1)[0] == stage]
    for path in sorted(mine, key=lambda path: path.stat().st_mtime, reverse=True):
        lines = _bytes(path).splitlines()
        end = _fields(lines[-1]) if lines else {}
        cost, outs = end.get("cost"), end.get("outs") or {}
        if end.get("event") == "end" and _numbers(cost) and _sizes(outs):
            yield path.parent, end | {"outs": outs}


def _seconds(path: Path, stage: str) -> float | None:
    """How long the flow waited for a stage of an earlier run; of one by hand nobody knows."""
    results = _fields(_bytes(path)).get("results")
    told = results.get(stage) if isinstance(results, dict) else None
    ran = isinstance(told, dict) and told.get("state") == "ran" and isinstance(told.get("seconds"), int | float)
    return float(told["seconds"]) if ran and told else None


def _bytes(path: Path) -> bytes:
    """None of a record that is gone, or is no file."""
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _fields(text: bytes) -> dict[str, Any]:
    """None of a record that is torn, empty or of another form."""
    with suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _numbers(cost: Any) -> bool:
    return isinstance(cost, dict) and bool(cost) and all(isinstance(value, int | float) for value in cost.values())


def _sizes(outs: Any) -> bool:
    return isinstance(outs, dict) and all(
        isinstance(facts, dict) and {"size", "nfiles"} <= facts.keys() for facts in outs.values()
    )


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
    computing = sum(own.get(f"seconds_{kind}", 0.0) for kind in COMPUTING)
    if own.get("matmul_rate") and computing:
        cost["matmul_share"] = own.get("flops", 0.0) / computing / own["matmul_rate"]
    return cost
