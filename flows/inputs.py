"""That a stage has read what the stages before it wrote, and nothing that was edited in between."""

import time
from collections.abc import Mapping, Sequence
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
    lock = entries(tree, graph, (name, *graph.upstream[name]), looks=100)
    if lock is None:
        raise DataRefused(f"{tree / 'dvc.lock'} has no entry of stage {name}, which has just ended; run again")
    locked = Tree(tree, graph, lock)
    written = locked.digests()
    for item in locked.deps(name):
        if written.get(item.path, item.md5) != item.md5:
            raise DataRefused(
                f"{item.path} was changed after stage {graph.producer(item.path)} wrote it, so this result counts for "
                "nothing; run again, which restores it, and put data of your own into data/inbox"
            )


def entries(tree: Path, graph: Graph, names: Sequence[str], looks: int) -> Lock | None:
    """What dvc.lock says of these stages, once all of it is there; None where it is not after so many looks.

    Another stage's dvc may be writing the file just now, in place.
    """
    for _ in range(looks):
        with suppress(ConfigError):
            lock = read_lock(tree / "dvc.lock")
            if all(_is_whole(graph, lock, name) for name in names):
                return {name: lock[name] for name in names}
        time.sleep(0.05)
    return None


def _is_whole(graph: Graph, lock: Lock, name: str) -> bool:
    """Outputs stand last, each with its size, or a folder's number of files, at its end."""
    entry = lock.get(name)
    outs = (entry.get("outs") or []) if isinstance(entry, Mapping) else [{}]
    whole = all("nfiles" in out if str(out.get("md5")).endswith(".dir") else "size" in out for out in outs)
    return whole and len(outs) == len(graph.stages[name].outs)
