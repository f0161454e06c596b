"""What a rerun gave against what dvc.lock names: out by out, file by file, and metrics within their intervals."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.again import files_on_disk
from flows.cache import files_of, object_path
from flows.diff.metrics import intervals, is_interval
from flows.machine import FACTS
from flows.reproduce.restore import Locked, named, outs_of
from tasks.graph import Graph


def outs(lock: Locked, fresh: Locked, stages: Collection[str]) -> list[dict[str, Any]]:
    """A record an output of stages that were run again; `found` is None where the rerun has not come to it."""
    return [
        {"stage": stage, "path": path, "md5": md5, "found": found, "state": "equal" if found == md5 else "differs"}
        for stage in stages
        for path, md5 in outs_of(lock, stage).items()
        for found in [outs_of(fresh, stage).get(path) if stage in fresh else None]
    ]


def first(records: list[dict[str, Any]], graph: Graph) -> str:
    """The stage where it parted: its own inputs were the same, its outputs are not; "" where all are equal."""
    apart = {record["stage"] for record in records if record["state"] != "equal"}
    return next((stage for stage in graph.stages if stage in apart and not apart & set(graph.upstream[stage])), "")


def explain(record: Mapping[str, Any], tree: Path, cache: Path) -> dict[str, Any]:
    """Which files of an output differ, and for a file of metrics how far; `files` is None where the old are nowhere."""
    path, md5 = str(record["path"]), str(record["md5"])
    if not (tree / path).is_dir():
        old = object_path(cache, md5)
        return {"files": [path], "metrics": list(_metrics(old, tree / path)) if old and path.endswith(".json") else []}
    if object_path(cache, md5) is None:
        return {"files": None, "metrics": []}
    before = {name: named(kept) if kept else None for name, kept in files_of(cache, md5).items()}
    after = files_on_disk(tree / path)
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return {"files": [f"{path}/{name}" for name in names], "metrics": []}


def machines(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of the machine that bytes depend on and that differ, each with both values; and the stages without any."""
    found: dict[str, Any] = {}
    for stage in (stage for stage in new if stage in old):
        for fact in FACTS:
            then, now = old[stage].get(fact), new[stage].get(fact)
            if then is not None and then != now:
                found.setdefault(fact, {"then": then, "now": now, "stages": []})["stages"].append(stage)
    return {"differ": found, "not_recorded": [stage for stage in new if stage not in old]}


def _metrics(old: Path, new: Path) -> Iterator[dict[str, Any]]:
    """Numbers that differ; `within` says whether the new mean lies in the old interval, None where there is none."""
    before = dict(intervals(json.loads(old.read_text(encoding="utf-8"))))
    for name, after in intervals(json.loads(new.read_text(encoding="utf-8")) if new.exists() else {}):
        then = before.get(name)
        if then is not None and then != after:
            known = is_interval(then) and is_interval(after)
            within = then["ci_low"] <= after["mean"] <= then["ci_high"] if known else None
            yield {"metric": name, "a": then, "b": after, "within": within}
