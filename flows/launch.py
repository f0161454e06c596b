"""A whole run, from the command line to the last line: where it works, what it brings along, what it then does."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ruamel.yaml import YAML

from flows import (
    champion,
    closing,
    dvc,
    dvc_watch,
    given,
    guards,
    placing,
    profiles,
    run_lease,
    running,
    server,
    unfit,
    workspace,
    worktrees,
)
from flows.busy import busy
from flows.plan import check
from flows.pools import ready
from flows.request import Report, Run, Start, Wish
from rlhf.errors import DependencyDown
from tasks import tracking
from tasks.ahead import import_ahead
from tasks.graph import load_graph
from tasks.journal import home
from tasks.outcome import StageResult


def run(
    root: Path,
    wish: Wish,
    cancel: threading.Event,
    *,
    show: Callable[[Report, Path], None],
    say: Callable[[str], None],
    on_begin: Callable[[], None] = lambda: None,
    on_tree: Callable[[Path], None] = lambda _: None,
    on_result: Callable[[StageResult, Path], None] = lambda *_: None,
) -> Report:
    """Do one run of `root` as wished.

    Args:
        cancel: ends it within seconds, from any thread.
        show: gets the finished report and the tree of the run, which may be gone afterwards.
        say: gets a line that a person should see at once.
        on_begin: called when `cancel` is heeded from now on; before, an exception is the way to end it.
        on_tree: gets the tree of the run before its first stage; an exception ends the run there.
        on_result: gets what became of each stage as it ends, and the tree of the run.

    Raises:
        PreflowError: before any stage began (usage, another run in this tree, no disk, no server). What happens in
            stages is in the report.
    """
    began = time.monotonic()
    if wish.start:
        resolved = _as_begun(wish.start)
    else:
        resolved = given.settle(root, profiles.resolve(root, wish.profile, wish.settings), say)
    report = Report(run=wish.start.run if wish.start else new_name())
    with ExitStack() as stack:
        stack.enter_context(dvc_watch.heeding(cancel))
        stack.enter_context(guards.going_on(root, f"run {report.run}"))
        if resolved.label and not wish.start:  # a comparison sweeps once for all its cells
            worktrees.sweep(root)
        lock = home(root) / ("worktrees" if resolved.label else ".") / f"{report.run if resolved.label else 'run'}.lock"
        stack.enter_context(guards.held(lock, f"run {report.run}"))
        waits_for_stages = _surely_runs(root, wish, resolved)
        if not wish.start:  # the cells of a comparison are many, and have the processors already
            tracking.keep(root, report.run, gently=waits_for_stages)
            stack.callback(tracking.let_go, report.run)
        with busy(f"run {report.run}: getting ready"), _forgotten_where_refused(root, report.run):
            prefect = _prefect(root) if waits_for_stages else server.there(root)
            place, taken, whole = placing.place(root, resolved, wish.start, report, say)
            on_tree(place.tree)
            this = Run(wish, resolved, report, place, load_graph(place.tree), cancel, taken)
            this, todo = _todo(this, whole, say)
            _refuse_doomed(this, todo, say)
            this = stack.enter_context(run_lease.held(this, todo, say))
            prefect = _reached(this, todo, prefect, say)
        results = running.stages(this, todo, prefect, say, on_begin, on_result)
        with busy(f"run {report.run}: keeping what it was"):
            closing.keep(this, results, say)
            closing.judge(this, results, say)
            here = {one.name for one in results.values() if one.state == "ran"} - set(this.pools)
            check.remember(_site(this), report.costs, here)
        report.seconds = round(time.monotonic() - began, 1)
        done_with = bool(resolved.label) and report.exit_code in (0, closing.NOT_PROMOTED) and not wish.keep
        report.worktree = str(place.tree) if resolved.label and not done_with else ""
        closing.tell(this, say)
        show(report, place.tree)
        if done_with:
            worktrees.remove(root, place.tree)
        elif resolved.label and wish.keep:
            worktrees.mark_kept(place.tree)
    return report


def _refuse_doomed(this: Run, todo: set[str], say: Callable[[str], None]) -> None:
    """Raises PreflowError where something that is known before the first stage would end the run later."""
    unfit.refuse_unfit(this.tree, this.graph, todo)
    ready.refuse_unready(this.owner, this.pools, this.graph, todo)
    if todo:
        guards.check_disk(this.owner)
        if this.wish.planned:  # of this machine, whose memory is known; workers plan what they do
            check.refuse_hopeless(_site(this), todo - set(this.pools), say)


def _reached(
    this: Run, todo: set[str], prefect: server.Server | None, say: Callable[[str], None]
) -> server.Server | None:
    """A server that answers, where stages need one; where none has to run, the one that is there, if it hears."""
    if todo:
        prefect = _prefect(this.owner)
    if prefect is None:
        return None
    if todo or this.wish.retrain:
        server.wait(prefect, this.owner, this.cancel)
        return prefect
    return prefect if _hears(prefect, this.owner, this.cancel, say) else None


@contextmanager
def _forgotten_where_refused(root: Path, run: str) -> Iterator[None]:
    """A run that ends before its first stage has made nothing, and its ref would pass for the last run."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        workspace.forget(root, run)
        raise


def new_name() -> str:
    """A name for a run, later ones behind earlier ones."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def _as_begun(start: Start) -> profiles.Resolved:
    """The configuration of a cell, whatever has become of the checkout's meanwhile."""
    return profiles.Resolved(
        text=start.params,
        values=YAML(typ="safe").load(start.params) or {},
        dvc_yaml=None,
        further={},
        label=start.label,
        own_sources=start.own_sources,
    )


def _site(this: Run) -> check.Site:
    """What is planned, where it runs."""
    return check.Site(this.owner, this.tree, this.graph, lambda: profiles.whole(this.resolved))


def _surely_runs(root: Path, wish: Wish, resolved: profiles.Resolved) -> bool:
    """Whether something has to run, as far as that can be told in a moment."""
    if wish.start:
        return bool(wish.start.todo)
    before = workspace.runs(root, resolved.label) if resolved.label else (root / "dvc.lock").exists()
    return wish.rerun or bool(wish.retrain) or not before


def _prefect(root: Path) -> server.Server:
    """The server, started where none is up, for a flow that will be run; Prefect reads its address at its import."""
    found = server.start(root)
    import_ahead("flows.pipeline")  # git and dvc are waited for meanwhile
    return found


def _hears(prefect: server.Server, root: Path, cancel: threading.Event, say: Callable[[str], None]) -> bool:
    """Whether the server can be told of a run in which nothing has to run: it is not needed, so one that was configured
    is asked once; ours may be starting still, or have ended since it was found, as it was idle."""
    if not prefect.ours:
        if not server.healthy(prefect.url):
            say(f"no Prefect server answers at {prefect.url}; nothing has to run, so its page there is left out")
            return False
        return True
    try:
        server.wait(prefect, root, cancel)
    except DependencyDown:
        return False
    return True


def _todo(this: Run, whole: bool, say: Callable[[str], None]) -> tuple[Run, set[str]]:
    """Stages that may have to run; the champion is brought up to date on the way, where somebody knows it."""
    start = this.wish.start
    if start:
        champion.hold_none(this.tree, this.graph)
        return this, this.graph.descendants(set(start.todo) if whole else set(dvc.status(this.tree)))
    changed = dvc.status(this.tree)
    if dvc.keep(this.tree, changed):
        changed = dvc.status(this.tree)
    try:
        renewed = champion.refresh(this.owner, this.tree, this.graph, this.resolved.registry, bool(changed))
    except DependencyDown as error:
        say(f"{error}; the run goes on with the champion that {champion.FOLDER} names, and promotes nothing")
        champion.refresh_by_git(this.owner, this.tree, this.graph, this.resolved.registry, bool(changed))
        renewed, this = True, replace(this, registry_down=str(error))
    if renewed:
        changed = dvc.status(this.tree)
    return this, set(this.graph.stages) if this.wish.rerun else this.graph.descendants(set(changed))
