"""A run once more: its outputs restored and proven, or made again from nothing and compared with what they were."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flows import dvc, guards, machine, worktrees
from flows.again import resolve
from flows.releases.releases import Release
from flows.reproduce import compare
from flows.reproduce import rerun as reproduce_rerun
from flows.reproduce.restore import restore
from rlhf.errors import Preempted, PreflowError
from tasks import environment
from tasks.journal import home
from tasks.lineage import Tree, read_tree


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    name: str
    rerun: bool = False
    stage: str = ""
    keep: bool = False


@dataclass
class Answer:
    """What came of it; `preflow reproduce --json` prints it."""

    name: str
    ref: str
    commit: str
    run: str
    how: str
    """"restored" or "rerun"."""
    verdict: str = ""
    """"byte-equal", "differs", "missing" or "failed"."""
    reason: str = ""
    outs: list[dict[str, Any]] = field(default_factory=list)
    """One an output that was proven, with `md5` (as dvc.lock has it), `found` and `state`."""
    lock_equal: bool | None = None
    """Whether a rerun of all stages wrote dvc.lock anew to the same bytes; None where not all were run."""
    not_rerun: Mapping[str, list[str]] = field(default_factory=dict)
    """Stages that could not be run again, each with the inputs that are not here as they were; they were restored."""
    first: str = ""
    """Where a rerun parted from what it was."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    worktree: str = ""
    seconds: float = 0.0
    exit_code: int = 0


@dataclass(frozen=True)
class _Work:
    root: Path
    tree: Path
    cache: Path
    found: Release
    was: Tree
    stages: list[str]
    """Those to prove, in the order of the graph."""
    answer: Answer
    say: Callable[[str], None]


def reproduce(
    root: Path,
    asked: Asked,
    cancel: threading.Event,
    say: Callable[[str], None],
    on_begin: Callable[[], None] = lambda: None,
) -> Answer:
    """Do it in a worktree of its own: the checkout, its branch, its cached results and MLflow stay as they are.

    Args:
        cancel: ends a rerun within seconds, from any thread.
        on_begin: called when `cancel` is heeded from now on; before, an exception is the way to end it.

    Raises:
        PreflowError: nothing has this name, it holds no result, or (rerun) other package versions are installed.
    """
    began = time.monotonic()
    found = resolve(root, asked.name)
    how = "rerun" if asked.rerun else "restored"
    answer = Answer(found.label, found.ref, found.commit, found.run, how)
    name = f"reproduce-{found.commit[:12]}"
    guards.check_disk(root)
    cache = dvc.cache(root)
    checkout = partial(worktrees.checkout, root, commit=found.commit, with_champion=False)
    with guards.going_on(root, name), checkout(name, cache=cache, keep=lambda: asked.keep) as tree:
        was = read_tree(tree)
        work = _Work(root, tree, cache, found, was, _stages(was, asked, found), answer, say)
        if asked.rerun:
            own = home(root) / "worktrees" / f"{name}-rerun" / ".dvc" / "cache"
            with checkout(f"{name}-rerun", cache=own, keep=lambda: bool(answer.worktree)) as fresh:
                _rerun(work, fresh, cancel, on_begin)
                broken = answer.verdict == "failed" and not cancel.is_set()
                answer.worktree = str(fresh) if asked.keep or broken else ""
        else:
            _restore(work)
            answer.worktree = str(tree) if asked.keep else ""
    answer.seconds = round(time.monotonic() - began, 1)
    return answer


def _stages(was: Tree, asked: Asked, found: Release) -> list[str]:
    if asked.stage and asked.stage not in was.graph.stages:
        raise PreflowError(f"--stage {asked.stage}: {found.label} has the stages {', '.join(was.graph.stages)}")
    known = [name for name in was.graph.stages if name in was.lock]
    if not known or (asked.stage and asked.stage not in known):
        what = f"stage {asked.stage}" if asked.stage else "any stage"
        raise PreflowError(f"{found.label} has no result of {what}: no dvc.lock in {found.ref} names one")
    return [asked.stage] if asked.stage else known


def _restore(work: _Work) -> None:
    answer = work.answer
    answer.outs = restore(work.tree, work.was.lock, work.stages, work.cache, work.say)
    states = {record["state"] for record in answer.outs}
    answer.verdict = "differs" if "differs" in states else "missing" if "missing" in states else "byte-equal"
    answer.exit_code = 0 if answer.verdict == "byte-equal" else 1


def _rerun(work: _Work, tree: Path, cancel: threading.Event, on_begin: Callable[[], None]) -> None:
    answer, was = work.answer, work.was
    environment.check(tree)
    given = _inputs(work, tree)
    todo = [stage for stage in work.stages if stage not in given]
    answer.not_rerun = given
    if not todo:
        answer.verdict, answer.exit_code = "failed", 1
        answer.reason = f"none of {', '.join(work.stages)} can be run again here"
        return
    if given:
        work.say(f"restored, as they cannot be run again here: {', '.join(given)}; the rerun is of what follows")
    old = (tree / "dvc.lock").read_bytes()
    name = f"{tree.name}-{time.strftime('%H%M%S')}"
    results = reproduce_rerun.run(work.root, tree, name, todo, cancel, work.say, on_begin)
    fresh = read_tree(tree).lock
    answer.outs += compare.outs(was.lock, fresh, todo)
    failed = next((result for result in results.values() if result.state not in ("ran", "cached")), None)
    if failed:
        stopped = cancel.is_set()
        answer.verdict, answer.reason = "failed", "stopped" if stopped else f"{failed.name}: {failed.reason}"
        answer.exit_code = Preempted.exit_code if stopped else failed.exit_code or 1
        return
    if len(todo) == len(was.graph.stages):
        answer.lock_equal = (tree / "dvc.lock").read_bytes() == old
    _compare(work, tree, name, todo)


def _inputs(work: _Work, tree: Path) -> dict[str, list[str]]:
    """Bring what the stages read, and say which of them cannot be run again, as something that they read is gone."""
    lock, graph = work.was.lock, work.was.graph
    restored: set[str] = set()

    def need(stages: list[str]) -> None:
        missing = [stage for stage in stages if stage not in restored]
        records = restore(work.tree, lock, missing, work.cache, work.say)
        if bad := next((record for record in records if record["state"] != "equal"), None):
            raise PreflowError(f"{bad['stage']} is to be restored, and {bad['path']} is not to be had: {bad['why']}")
        restored.update(missing)

    for stage, md5 in reproduce_rerun.inbox_of(lock).items():
        if stage in work.stages and reproduce_rerun.unmet(tree, graph, lock, [stage]):
            need([stage])
            reproduce_rerun.bring_inbox(tree, work.root, md5, work.tree)
    given = reproduce_rerun.unmet(tree, graph, lock, work.stages)
    todo = set(work.stages) - set(given)
    read = {maker for stage in todo for maker in graph.upstream[stage]} - todo
    need([stage for stage in graph.stages if stage in {*read, *given}])
    reproduce_rerun.copy_outs(work.tree, tree, lock, sorted(read))
    return given


def _compare(work: _Work, tree: Path, name: str, todo: list[str]) -> None:
    answer, was = work.answer, work.was
    apart = [record for record in answer.outs if record["state"] != "equal"]
    answer.verdict, answer.exit_code = ("differs", 1) if apart else ("byte-equal", 0)
    answer.first = compare.first(answer.outs, was.graph)
    if apart:
        restore(work.tree, was.lock, list(dict.fromkeys(record["stage"] for record in apart)), work.cache, work.say)
        for record in apart:
            record.update(compare.explain(record, tree, work.cache))
    then = machine.at(work.root, work.found.commit, was.digests())
    if not then and work.found.run:
        then = machine.of(home(work.root) / "journal" / work.found.run, todo)
    answer.machine = compare.machines(then, machine.of(home(tree) / "journal" / name, todo))
