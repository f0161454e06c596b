"""That a stage has read what the stages before it wrote, and nothing that was edited in between."""

import time
from pathlib import Path

from rlhf.errors import DataRefused
from tasks.config import ConfigError
from tasks.graph import Graph
from tasks.lineage import Tree
from tasks.lockfile import read_lock


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
    """dvc.lock with the entry of `name`: another stage's dvc may be writing the file just now."""
    for _ in range(100):
        try:
            lock = read_lock(tree / "dvc.lock")
            if name in lock:
                return Tree(tree, graph, lock)
        except ConfigError:
            pass
        time.sleep(0.05)
    raise DataRefused(f"{tree / 'dvc.lock'} has no entry of stage {name}, which has just ended; run again")
