"""How long stages took in earlier runs, from this checkout's journals; and from that, how long a run still takes."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.graph import Graph, GraphError, Stage, lookup
from tasks.journal import home

MOST = 50  # runs looked at, newest first

Upstream = Mapping[str, Collection[str]]


def seconds_before(root: Path, graph: Graph, params: Mapping[str, Any], profile: str) -> dict[str, float]:
    """Seconds by stage, as the newest run of this profile took them that ran it: one with its settings, else any.

    Stages that no such run has run are left out. Another profile says nothing, as its model and data are others, nor
    does another algorithm of the stage.
    """
    same: dict[str, float] = {}
    other: dict[str, float] = {}
    folders = sorted((home(root) / "journal").glob("*/finish.json"), reverse=True)[:MOST]
    for path in folders:
        with suppress(OSError, ValueError, KeyError):  # torn, or of an older preflow
            info = _read(path.with_name("run.json"))["info"]
            if (info.get("profile") or "") != profile:
                continue
            for name, result in _read(path)["results"].items():
                if name in graph.stages and result["state"] == "ran":
                    now, then = (_read_by(graph.stages[name], one) for one in (params, info.get("params") or {}))
                    if _algorithms(now) == _algorithms(then):
                        (same if now == then else other).setdefault(name, float(result["seconds"]))
    return other | same


def remaining(upstream: Upstream, left: Mapping[str, float], slots: int) -> float:
    """Seconds until all stages of `left` are done, where the first ready one of them goes first.

    Args:
        upstream: by stage, those that it waits for; what is not in `left` is done.
        left: seconds that each stage still takes; those that run already come first.
        slots: stages side by side.
    """
    now, running, waiting = 0.0, dict[str, float](), list(left)
    while waiting or running:
        for name in [name for name in waiting if not left.keys() & set(upstream.get(name, ())) & {*waiting, *running}]:
            if len(running) < slots:
                running[name] = now + left[name]
                waiting.remove(name)
        if not running:  # a graph has no circles, so this is a caller's mistake
            raise ValueError(f"{', '.join(waiting)} wait for each other")
        now = min(running.values())
        running = {name: end for name, end in running.items() if end > now}
    return now


def _read_by(stage: Stage, params: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a stage; none where some are not there, as in a run of an older preflow."""
    try:
        return {key: lookup(params, key) for key in stage.params}
    except GraphError:
        return {}


def _algorithms(read: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value["algorithm"] for key, value in read.items() if isinstance(value, dict) and "algorithm" in value}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
