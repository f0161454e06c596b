"""One host at a time does a run: the same code, parameters and data, wherever the clones of a project lie."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flows import champion, dvc, lease
from flows.releases.refs import remote_of
from flows.request import Run
from tasks.config import read_yaml
from tasks.graph import digest, lookup

TIMES = lease.Times(beat=60.0, window=300.0)
"""Slower than a retrain's: a run may go on for days, and each renewal is a push and an object of git."""


@contextmanager
def held(this: Run, todo: Collection[str], say: Callable[[str], None]) -> Iterator[Run]:
    """The run with its lease, without which it promotes nothing and stops.

    Asked for only where clones share bytes, by a DVC remote, so that what one of them does is of use to the others.
    A retrain has one of its own, and a comparison none.

    Raises:
        Busy: another clone is at this run; the message names it.
    """
    alone = this.wish.start or this.wish.retrain or not todo
    if alone or not remote_of(this.owner) or not dvc.default_remote(this.owner):
        yield this
        return
    with lease.held(this.owner, f"runs/{_digest(this)[:32]}", "", this.cancel, say, TIMES) as mine:
        yield replace(this, wish=replace(this.wish, lease=mine))


def _digest(this: Run) -> str:
    """Of all that the stages read and none of them writes, but for the champion: each clone asks who that is."""
    params, stages = read_yaml(this.tree / "params.yaml"), this.graph.stages.values()
    brought = {dep for stage in stages for dep in stage.deps if not this.graph.makers(dep)}
    parts = {
        "cmd": [stage.cmd for stage in stages],
        "params": {name: lookup(params, name) for stage in stages for name in stage.params},
        "deps": {dep: digest(this.tree / dep) for dep in brought if not dep.startswith(champion.FOLDER)},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
