"""That a stage has read what the stages before it wrote, and nothing that was edited in between."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rlhf.errors import DataRefused
from tasks.config import ConfigError
from tasks.graph import Graph
from tasks.lineage import Tree
from tasks.lockfile import Lock, read_lock


def hold(tree: Path, graph: Graph, name: str) -> None:
    """Compare what a stage that has ended read with what its producers wrote, by dvc.lock.

    DVC hashes what lies there when a stage starts. Where somebody edits `data/` while a run goes on, it trains on that
    without a word, also on rows that the data gate has never seen.

    Raises:
        DataRefused: it read something else.
    """
    locked = _lock(tree, graph, name)
    written = locked.digests()
    for item in locked.deps(name):
        if written.get(item.path, item.md5) != item.md5:
            raise DataRefused(
                f"{item.path} was changed after stage {graph.producer(item.path)} wrote it, so this result counts for "
                "nothing; run again, which restores it, and put data of your own into data/inbox"
            )


def _lock(tree: Path, graph: Graph, name: str) -> Tree:
    """The entries of `name` and of those before it, whole: another stage's dvc may be writing dvc.lock just now."""
    wanted = (name, *graph.upstream[name])
    for _ in range(100):
        with suppress(ConfigError):
            lock = read_lock(tree / "dvc.lock")
            if all(_is_whole(graph, lock, stage) for stage in wanted):
                return Tree(tree, graph, {stage: lock[stage] for stage in wanted})
        time.sleep(0.05)
    raise DataRefused(f"{tree / 'dvc.lock'} has no entry of stage {name}, which has just ended; run again")


def _is_whole(graph: Graph, lock: Lock, name: str) -> bool:
    """Outputs stand last, each with its size, or a folder's number of files, at its end."""
    entry = lock.get(name)
    outs = (entry.get("outs") or []) if isinstance(entry, Mapping) else [{}]
    whole = all("nfiles" in out if str(out.get("md5")).endswith(".dir") else "size" in out for out in outs)
    return whole and len(outs) == len(graph.stages[name].outs)
