"""Run what a run did once more, from nothing: its code, its parameters, a DVC cache and checkpoints of its own.

Nothing that an earlier run left can help, and nothing of this one reaches the project's cache or its run cache.
"""

import json
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from flows import dvc, server
from flows.again import md5_of
from flows.reproduce.restore import Locked, outs_of
from flows.runner import Place
from flows.view import View
from flows.work import Work
from tasks.graph import Graph
from tasks.inside import leads_out
from tasks.lineage import read_tree
from tasks.outcome import StageResult

INBOX = "data/inbox"


def unmet(tree: Path, graph: Graph, lock: Locked, stages: Collection[str]) -> dict[str, list[str]]:
    """What a stage read, that no stage writes, and that is not in `tree` as it was: by stage, without those that can.

    Code and settings are in the ref; what lay in the inbox is in git only as far as somebody has committed it.
    """
    found = {}
    for stage in stages:
        outside = [dep for dep in lock[stage].get("deps") or () if not graph.makers(dep["path"]) and "md5" in dep]
        wrong = [dep["path"] for dep in outside if md5_of(tree / dep["path"]) != dep["md5"]]
        if wrong:
            found[stage] = wrong
    return found


def bring_inbox(tree: Path, root: Path, wanted: str, restored: Path) -> None:
    """Fill the inbox with what the run found there: the checkout's where it is the same, else out of its raw data.

    A file that was dropped into the inbox lies in the raw data under its name, as `origin.json` beside it says. What
    cannot be told so (files named in params.yaml) stays away, and `unmet` will say that it does.
    """
    inbox = tree / INBOX
    if md5_of(inbox) == wanted:
        return
    if md5_of(root / INBOX) == wanted:
        shutil.copytree(root / INBOX, inbox, dirs_exist_ok=True)
        return
    for note in sorted(restored.glob("data/*/*/origin.json")):
        for name, origin in json.loads(note.read_text(encoding="utf-8")).items():
            source, target = note.parent / name, inbox / str(origin["origin"]).removeprefix("inbox/")
            dropped = str(origin["origin"]).startswith("inbox/") and target.resolve().is_relative_to(inbox.resolve())
            if dropped and not leads_out(name) and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def inbox_of(lock: Locked) -> dict[str, str]:
    """The stages that read the whole inbox, each with its md5."""
    return {
        stage: str(dep["md5"])
        for stage, entry in lock.items()
        for dep in entry.get("deps") or ()
        if dep["path"] == INBOX and "md5" in dep
    }


def copy_outs(restored: Path, tree: Path, lock: Locked, stages: Collection[str]) -> None:
    """What stages wrote, for those that run after them."""
    for path in (path for stage in stages for path in outs_of(lock, stage)):
        source, target = restored / path, tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, target)


def run(
    root: Path,
    tree: Path,
    name: str,
    todo: Collection[str],
    cancel: threading.Event,
    say: Callable[[str], None],
    on_begin: Callable[[], None],
) -> Mapping[str, StageResult]:
    """Run stages in `tree`, each from nothing, by the same flow as every run; MLflow is told nothing.

    Raises:
        DependencyDown: Prefect does not answer; Preempted: `cancel` was set before it did.
    """
    prefect = server.start(root)
    server.wait(prefect, root, cancel)
    from flows.pipeline import execute  # imports Prefect, which reads its settings then

    graph = read_tree(tree).graph
    (tree / "dvc.lock").unlink(missing_ok=True)
    place = Place(tree, tree, name)
    place.journals.mkdir(parents=True, exist_ok=True)
    (place.journals / "shipped").touch()  # it proves something of a run that MLflow has, and is none of its own
    with View(graph.upstream, place.journals, todo=todo, title=name) as view:
        on_begin()
        results = execute(
            Work(
                place=place,
                graph=graph,
                todo=todo,
                force=True,
                cancel=cancel,
                on_start=view.start,
                on_line=view.line,
                on_result=view.result,
                on_trouble=say,
            )
        )
    dvc.order_lock(tree, graph)
    return {stage: results[stage] for stage in results if stage in todo}
