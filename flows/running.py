"""The stages of a run, by Prefect's flow or, where none has to run, without it; who watches hears of each one."""

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows import champion, leftovers, server, unchanged
from flows.history import seconds_before
from flows.request import Run
from flows.runner import SIDE_BY_SIDE
from flows.view import View
from flows.work import Work
from tasks import tracking
from tasks.outcome import StageResult


def stages(
    this: Run,
    todo: set[str],
    prefect: server.Server | None,
    say: Callable[[str], None],
    on_begin: Callable[[], None],
    on_result: Callable[[StageResult, Path], None],
) -> Mapping[str, StageResult]:
    """What became of each stage, when all are over; the arguments are those of `flows.launch.run`."""
    done = threading.Event()
    keepers: list[threading.Thread] = []

    def begin(flow_run: str) -> None:
        assert prefect
        this.report.prefect = f"{prefect.page}/runs/flow-run/{flow_run}"
        tracking.announce(this.owner, this.report.run, _about(this) | {"flow_run_id": flow_run})
        keepers.append(threading.Thread(target=_keep_books, args=(this, prefect, done), daemon=True))
        keepers[-1].start()
        if todo and this.wish.promotes and not this.wish.start:
            tracking.get_ready()

    def end(result: StageResult) -> None:
        view.result(result)
        on_result(result, this.tree)

    slots = this.wish.start.slots if this.wish.start else SIDE_BY_SIDE
    known = seconds_before(this.owner, this.graph, this.resolved.values, this.wish.profile)
    title = f"run {this.report.run} {this.resolved.label}".rstrip()
    with View(this.graph.upstream, this.place.journals, todo=todo, known=known, slots=slots, title=title) as view:
        work = Work(
            place=this.place,
            graph=this.graph,
            todo=todo,
            force=this.wish.rerun,
            cancel=this.cancel,
            slots=slots,
            pools=this.pools,
            commit=this.taken.commit,
            patience=math.inf if this.wish.start else 120.0,
            planned=this.wish.planned,
            before=lambda name: champion.resample(this.place, this.graph, name, this.resolved.registry, this.cancel),
            on_start=view.start,
            on_line=view.line,
            on_result=end,
            on_flow=begin,
            on_trouble=say,
        )
        on_begin()
        try:
            return _execute(work, prefect, bool(this.wish.retrain))
        finally:
            done.set()
            tracking.announce(this.owner, this.report.run, _about(this))  # where Prefect never began the flow
            for keeper in keepers:
                keeper.join(timeout=0.5 if this.cancel.is_set() else 60.0)


def _execute(work: Work, prefect: server.Server | None, below_a_flow: bool) -> Mapping[str, StageResult]:
    """By Prefect's flow; where nothing has to run, Prefect is only told so, and nothing of it imported."""
    if not (work.todo or below_a_flow):
        done = unchanged.execute(work, prefect.url if prefect else "")
        if done is not None:  # else Prefect's own client knows what it wants of who asks
            return done
    from flows.pipeline import execute  # imports Prefect, which reads its settings then

    return execute(work)


def _about(this: Run) -> dict[str, Any]:
    """What MLflow is told of the run as a whole."""
    start = this.wish.start
    return {
        "name": f"{start.name if start else this.resolved.label or 'defaults'} {this.report.run}",
        "tree": str(this.tree),
        "profile": this.wish.profile,
        "ref": this.report.ref,
        "commit": this.taken.commit,
        "command": this.wish.command,
        "params": this.resolved.values,
        "registry": this.resolved.registry,
        "comparison": this.wish.start.comparison if this.wish.start else "",
        "tags": {"retrain.why": this.wish.retrain} if this.wish.retrain else {},
    }


def _keep_books(this: Run, prefect: server.Server, done: threading.Event) -> None:
    """Keep our server awake; tell MLflow of a cell while it happens, from a thread that may be slow."""
    if not this.wish.start:  # a cell leaves what is old to others
        leftovers.mark_crashed(this.owner, prefect.url)
    while True:
        if this.wish.start:
            tracking.replay(this.owner, this.report.run)
        if done.wait(2.0):
            return
        server.touch(this.owner)
