"""One stage on a worker: its inputs from git and the DVC remote, the same command as anywhere, its outputs back."""

import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import dvc, dvc_watch, guards, profiles, worktrees
from flows.plan import check
from flows.plan.measured import Measured
from flows.pools.beside import now_and_then
from flows.pools.exchange import Exchange
from flows.pools.mirror import Mirror
from flows.pools.orders import Answer, Order
from flows.pools.patience import patiently
from flows.releases.refs import QUIET, last_line, remote_of
from flows.runner import STOPPED, Place, run_stage
from flows.workspace import git
from rlhf.errors import DependencyDown, Preempted, PreflowError
from tasks.costs import costs_of
from tasks.graph import Graph, load_graph, overlap, stage_key
from tasks.journal import home
from tasks.lineage import read_tree
from tasks.outcome import StageResult

_LOOK = 2.0  # seconds between two looks for a new checkpoint
_EVEN_SO = 30  # looks after which what has grown is sent without one: what a judge has said is paid for


class Attempt:
    """One attempt at a stage."""

    def __init__(self, root: Path, order: Order, exchange: Exchange, name: str, cancel: threading.Event) -> None:
        """`root` is the worker's checkout; `name` tells this attempt from all others."""
        self._root, self._order, self._exchange, self._name, self._cancel = root, order, exchange, name, cancel
        self._scratch: Path | None = None

    def do(self) -> Answer:
        """Do what the order says.

        Raises:
            PreflowError: before the stage began, as git or the DVC remote lacks something, or it cannot fit here.
            DependencyDown: they did not answer, also when the outputs were to be sent.
        """
        try:
            with self._checkout() as tree, dvc_watch.heeding(self._cancel):
                return self._done_in(tree)
        except Preempted as error:  # while bytes came or went: who goes on begins with the last checkpoint
            result = StageResult(self._order.stage, "stopped", reason=STOPPED, exit_code=error.exit_code)
            return Answer(result, platform.node())

    def _done_in(self, tree: Path) -> Answer:
        order = self._order
        graph = load_graph(tree)
        self._patiently(lambda: restore(tree, graph, order.stage))
        key = stage_key(graph.stages[order.stage], tree)
        self._scratch = home(self._root) / "scratch" / f"{order.stage}-{key[:16]}"
        mirror = Mirror(self._exchange, self._scratch, self._name, order.run)
        place = Place(home(self._root), tree, order.run)
        site = check.Site(self._root, tree, graph, lambda: profiles.whole(profiles.resolve(tree)))
        if order.planned:  # here, whose memory it is that it has to fit into
            check.refuse_hopeless(site, [order.stage], lambda line: _tell(place, order.stage, line))
        if not order.force:
            mirror.restore()
        elif mirror.restore_own():
            _mark_cut_short(place, order.stage)
        with _mirrored(mirror):
            result = run_stage(
                place,
                order.stage,
                on_line=lambda line: print(line, flush=True),
                cancel=self._cancel,
                force=order.force,
            )
        if result.state in ("ran", "cached"):
            answer = replace(_kept(tree, order.stage, result), scratch=mirror.folder)
            return replace(answer, measured=_remembered(site, order, result))
        with suppress(DependencyDown, OSError):  # then who goes on has the checkpoint before
            mirror.push(whatever=True)
        return Answer(result, platform.node())

    def forget(self) -> None:
        """The run has the answer, and removes what of it is in the exchange when it has the outputs too."""
        if self._scratch:
            guards.forget(self._scratch)

    @contextmanager
    def _checkout(self) -> Iterator[Path]:
        root, order = self._root, self._order
        self._patiently(self._fetch)
        name = f"{order.run}-{order.stage}-{self._name[:8]}"
        worktrees.sweep(root)
        try:
            with worktrees.checkout(root, name, order.commit, with_champion=False) as tree:
                yield tree
        finally:
            with suppress(PreflowError):
                git(root, "update-ref", "-d", order.ref)

    def _fetch(self) -> None:
        root, order = self._root, self._order
        remote = remote_of(root)
        try:
            git(root, "fetch", "--quiet", "--no-tags", remote, f"+{order.ref}:{order.ref}", env=QUIET)
            git(root, "cat-file", "-e", f"{order.commit}^{{commit}}")
        except PreflowError as error:
            raise DependencyDown(f"the git remote {remote} did not give {order.ref}: {last_line(error)}") from None

    def _patiently(self, what: Callable[[], None]) -> None:
        """Who is asked to end meanwhile is lost, and has not failed: the stage is sent to another."""
        order = self._order
        place = Place(home(self._root), self._root, order.run)
        try:
            patiently(what, self._cancel, lambda line: _tell(place, order.stage, line))
        except DependencyDown:
            if self._cancel.is_set():
                raise Preempted(STOPPED) from None
            raise


def restore(tree: Path, graph: Graph, stage: str) -> None:
    """Bring what the stage reads and other stages wrote, as dvc.lock names it.

    Raises:
        DependencyDown: the DVC remote does not have it, or does not answer.
    """
    wanted = inputs_of(graph, stage)
    if wanted and (done := dvc.call(tree, "pull", "--no-run-cache", "--force", "--quiet", *wanted)).returncode != 0:
        raise DependencyDown(f"the DVC remote did not give what {stage} reads: {dvc.last_line(done.stderr)}")


def inputs_of(graph: Graph, stage: str) -> list[str]:
    """Outputs of other stages that a stage reads, or reads something of, as dvc.yaml has them."""
    deps = graph.stages[stage].deps
    outs = [out for other in graph.stages.values() for out in other.outs]
    return [out for out in outs if any(overlap(dep, out) for dep in deps)]


def _mirrored(mirror: Mirror) -> AbstractContextManager[None]:
    """Each new checkpoint goes to the exchange while the stage trains on."""

    def look(count: int) -> None:
        with suppress(DependencyDown, OSError):  # the next one may be taken
            mirror.push(whatever=count % _EVEN_SO == 0)

    return now_and_then(_LOOK, look)


def _mark_cut_short(place: Place, stage: str) -> None:
    """Say that this run has begun the stage before: so, although it was forced, it goes on, and does not begin anew."""
    folder = place.journals / f"{stage}-0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text('{"event": "elsewhere"}\n', encoding="utf-8")


def _tell(place: Place, stage: str, line: str) -> None:
    """Say it on the worker, and in the stage's log, which the run hears."""
    print(line, flush=True)
    place.journals.mkdir(parents=True, exist_ok=True)
    with (place.journals / f"{stage}.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


def _remembered(site: check.Site, order: Order, result: StageResult) -> list[Measured]:
    """What the stage took beside what was planned, where it ran."""
    if result.state != "ran":
        return []
    costs = costs_of(site.owner, order.run, read_tree(site.tree), {order.stage: asdict(result)})
    return check.remember(site, costs, [order.stage])


def _kept(tree: Path, stage: str, result: StageResult) -> Answer:
    """Send the outputs to the DVC remote, and take down what dvc.lock and the run cache say of them."""
    if (done := dvc.call(tree, "push", "--no-run-cache", "--quiet", stage)).returncode != 0:
        raise DependencyDown(f"the DVC remote did not take what {stage} made: {dvc.last_line(done.stderr)}")
    entry = dvc.entry(tree, stage)
    return Answer(result, platform.node(), entry, _run_cache(dvc.cache(tree) / "runs", entry))


def _run_cache(folder: Path, entry: str) -> str:
    """DVC's own note of the stage in its run cache: path and text."""
    (wanted,) = YAML(typ="safe").load(entry).values()
    first = str(wanted["outs"][0]["md5"])
    for path in folder.glob("*/*/*"):
        text = path.read_text(encoding="utf-8")
        if first in text and _same(YAML(typ="safe").load(text), wanted):
            return f"{path.relative_to(folder).as_posix()}\n{text}"
    raise PreflowError(f"DVC's run cache in {folder} has nothing of this stage; it can not be handed over")


def _same(note: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether both are of one command, with the same parameters, inputs and outputs."""
    files = all(_digests(note, kind) == _digests(entry, kind) for kind in ("deps", "outs"))
    return files and all(note.get(kind) == entry.get(kind) for kind in ("cmd", "params"))


def _digests(noted: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {one["path"]: one["md5"] for one in noted.get(kind) or ()}
