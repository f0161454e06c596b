"""Where the seconds of a run went: each moment counts once, for the first of PARTS that it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Span = tuple[float, float]
Looks = Sequence[tuple[float, frozenset[str]]]

PARTS = {
    "stages": "the stages' own functions",
    "imports": "the stages' processes before and after that: start, imports, end",
    "dvc": "DVC, with no stage's process",
    "git": "git: what the run was is kept",
    "start": "before DVC is asked first: start of `preflow`, imports, configuration",
    "mlflow": "after the last of DVC: MLflow and Prefect hear the rest, page, last lines",
    "flow": "between: Prefect's flow, its server, and all else",
}


def parts(looks: Looks, work: Sequence[Span], began: float, seconds: float) -> dict[str, float]:
    """Seconds of each part; they add up to `seconds`.

    Args:
        looks: times, and the kinds of processes that there were.
        work: when each stage's function began and ended.
    """
    asked = [when for when, kinds in looks if "dvc" in kinds]
    first, last = (asked[0], asked[-1]) if asked else (began + seconds, began)
    found = dict.fromkeys(PARTS, 0.0)
    ends = [*(when for when, _ in looks[1:]), began + seconds]
    starts = [began, *(when for when, _ in looks[1:])]
    for (_, kinds), start, end in zip(looks, starts, ends, strict=True):
        working = _covered(work, start, end)
        found["stages"] += working
        found[_part(kinds, start, first, last)] += end - start - working
    return found


def work_of(journals: Path) -> dict[str, list[Span]]:
    """When the function of each stage began and ended, by the stages' own journals; attempts that ended only."""
    found: dict[str, list[Span]] = {}
    for path in sorted(journals.glob("*/events.jsonl")):
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        times: Mapping[str, float] = {event["event"]: event["time"] for event in events}
        if {"start", "end"} <= times.keys():
            found.setdefault(path.parent.name.rsplit("-", 1)[0], []).append((times["start"], times["end"]))
    return found


def _covered(spans: Sequence[Span], start: float, end: float) -> float:
    """Seconds between `start` and `end` that lie in some span."""
    total, reached = 0.0, start
    for begins, ends in sorted(spans):
        total += max(0.0, min(ends, end) - max(begins, reached))
        reached = max(reached, min(ends, end))
    return total


def _part(kinds: frozenset[str], when: float, first: float, last: float) -> str:
    for kind, part in (("stage", "imports"), ("dvc", "dvc"), ("git", "git")):
        if kind in kinds:
            return part
    return "start" if when < first else "mlflow" if when > last else "flow"
