"""After the stages: the lock file in its order, the run's ref complete, the record closed, the winner promoted."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any
from urllib.error import HTTPError

from flows import champion, dvc, guards, machine, promotion, unchanged, workspace
from flows.request import Run
from flows.runner import last_event
from rlhf.errors import DependencyDown, Preempted, PreflowError
from tasks import tracking
from tasks.costs import costs_of
from tasks.journal import home
from tasks.lineage import read_tree
from tasks.outcome import StageResult
from tasks.tracking.boundary import LATER, PATIENCE

NOT_PROMOTED = 4
Results = Mapping[str, StageResult]


def keep(this: Run, results: Results, say: Callable[[str], None]) -> None:
    """Put dvc.lock in order, clear what finished stages kept for a resume, and complete the commit of the run.

    Stages read the tree as they find it, so what was edited while they ran is taken as it is now.
    """
    dvc.order_lock(this.tree, this.graph)
    for result in results.values():
        if result.state == "ran":
            _forget_scratch(this, result.name)
    files = {path: this.tree / path for path in ("dvc.lock", *champion.FILES)}
    ran, cached = ([one.name for one in results.values() if one.state == state] for state in ("ran", "cached"))
    made_on = machine.record(this.owner, this.resolved.label, this.place.journals, ran, cached)
    extra = {path: file.read_bytes() if file.exists() else None for path, file in files.items()}
    extra |= {machine.RECORD: made_on}
    first = this.taken.commit
    edited = workspace.edited(this.owner, this.report.run, this.taken) if this.tree == this.owner else []
    if edited:
        say(f"edited while the run went on, and kept as it is now: {', '.join(edited[:5])}{' …' * (len(edited) > 5)}")
    base = "HEAD" if edited else first
    kept = workspace.snapshot(this.owner, this.report.run, this.message, base=base, parent=first, extra=extra)
    this.report.commit = kept.commit
    this.report.left_out = tuple(sorted({*this.report.left_out, *kept.left_out}))


def judge(this: Run, results: Results, say: Callable[[str], None]) -> None:
    """Close the record, promote, and settle the exit code."""
    report = this.report
    report.stages = [asdict(result) for result in results.values()]
    failed = [result for result in results.values() if result.state == "failed"]
    whole = all(result.state in ("ran", "cached") for result in results.values())
    stopped = this.cancel.is_set() and not whole
    _close_record(this, results, "FINISHED" if whole else "KILLED" if stopped else "FAILED", say)
    told = {stage["name"]: stage for stage in report.stages}
    report.costs = costs_of(this.owner, report.run, read_tree(this.tree), told)
    validation = this.place.reports / "validation"
    report.validation = str(validation) if validation.is_dir() else ""
    if stopped:
        report.exit_code = Preempted.exit_code
    elif not whole:
        report.exit_code = failed[0].exit_code if failed else 1
    else:
        gate = this.tree / "data" / "13_gate" / "gate.json"
        report.gate = json.loads(gate.read_text(encoding="utf-8")) if gate.exists() else None
        report.promotion = _promote(this, say)
        if report.exit_code == 0 and this.wish.require_promotion and not (report.promotion or {}).get("promoted"):
            report.exit_code = NOT_PROMOTED


def tell(this: Run, say: Callable[[str], None]) -> None:
    """Write the run's page, and show it to MLflow and, in short, to Prefect. Trouble with it costs the run nothing."""
    from flows.page import page

    try:
        short = page.finish(this)
    except Exception as error:  # of whatever kind: what the run has done stands
        say(f"the run's page was not written: {type(error).__name__}: {error}; `preflow report` tries again")
        return
    this.report.page = str(this.place.reports / page.PAGE)
    if this.cancel.is_set():  # who stops a run does not wait for servers
        return
    told = (this.place.journals / "shipped").exists()  # by another command, which was faster
    if this.report.mlflow or told:  # else it goes with the end of the run, when that is told
        left = f"the page of run {this.report.run}; it is in {this.report.page} alone"
        _while_it_answers(
            this, say, left, lambda: tracking.attach(this.owner, this.report.run, this.place.reports / page.PAGE)
        )
    if this.report.prefect:
        _show(this.report.prefect, short, say)


def _show(page: str, short: str, say: Callable[[str], None]) -> None:
    server, _, flow_run = page.partition("/runs/flow-run/")
    try:
        unchanged.show_report(f"{server}/api", flow_run, short)
    except HTTPError:  # it wants more of who asks than we know: its own client knows it
        from flows.pipeline import show_report  # imports Prefect

        show_report(flow_run, short, say)
    except (OSError, ValueError) as error:
        say(f"Prefect did not take the run's report: {type(error).__name__}: {error}")


def _close_record(this: Run, results: Results, status: str, say: Callable[[str], None]) -> None:
    def close() -> None:
        this.report.mlflow = tracking.finish_run(this.owner, this.report.run, results, status, this.report.commit)

    _while_it_answers(this, say, f"the end of run {this.report.run} yet; {LATER}", close)


def _while_it_answers(this: Run, say: Callable[[str], None], left: str, tell: Callable[[], None]) -> None:
    """In a thread: MLflow may hang, and who stops a run has no time to wait. `left` is what it then lacks."""
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    until = time.monotonic() + PATIENCE
    while teller.is_alive() and not this.cancel.is_set() and time.monotonic() < until:
        teller.join(timeout=0.1)
    teller.join(timeout=0.5)
    if teller.is_alive():
        say(f"MLflow has not taken {left}")


def _promote(this: Run, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Move the alias, which is a side effect and so belongs to no stage; None without a gate, and in a comparison."""
    if this.report.gate is None or this.wish.start:
        return None
    try:
        with guards.promoting(this.owner, f"promotion of {this.report.run}", say, this.cancel):
            return _decide(this, this.report.gate)
    except Preempted as error:
        this.report.exit_code = error.exit_code
        name = this.resolved.registry
        return {"promoted": False, "name": name, "version": None, "reason": f"not promoted: {error}"}


def _decide(this: Run, gate: Mapping[str, Any]) -> dict[str, Any]:
    name = this.resolved.registry
    outcome: dict[str, Any] = {"promoted": False, "name": name, "version": None}
    reigning, down = None, this.registry_down
    if not down:
        try:
            reigning = champion.reigning(this.owner, name)
        except DependencyDown as error:
            down = str(error)
    md5 = tracking.bytes_of(this.tree, gate["candidate"]) or ""
    if reigning and reigning["md5"] == md5:
        reason = f"{name} v{reigning['version']} is already the champion (same bytes)"
        outcome |= {"promoted": True, "version": reigning["version"], "reason": reason}
        return outcome if down or reigning.get("by") == "git" else outcome | _refs(this, reigning["version"])
    if not gate.get("promote"):
        return outcome | {"reason": f"not promoted: {gate.get('reason', 'the gate says no')}"}
    if not this.wish.promotes:
        return outcome | {"reason": "not promoted: a run with --set is promoted only with --promote"}
    if down:
        if not this.registry_down:
            this.report.exit_code = DependencyDown.exit_code
        return outcome | {"reason": f"not promoted: {down}; run again when it answers"}
    try:
        if why := _stays(this, reigning, md5):
            return outcome | {"reason": f"not promoted: {why}"}
        if this.wish.by_hand:
            reason = f"{gate['reason']}; waits for `preflow promote {this.report.run}`"
            return outcome | {"waits": True, "reason": reason}
        if this.wish.lease:
            _refuse_lost(this)
        version = tracking.promote(this.owner, this.report.run, gate["candidate"], name)
    except PreflowError as error:
        if isinstance(error, DependencyDown):
            this.report.exit_code = error.exit_code
        return outcome | {"reason": f"not promoted: {error}"}
    outcome |= {"promoted": True, "version": version, "reason": f"promoted {name} v{version}"}
    return outcome | _refs(this, version, new=True, over=reigning["version"] if reigning else None)


def _refuse_lost(this: Run) -> None:
    """Only a retrain sends what it promotes: another run goes on where the git remote does not say whose it is."""
    assert this.wish.lease
    try:
        this.wish.lease.refuse_lost()
    except DependencyDown:
        if this.wish.retrain:
            raise


def _refs(this: Run, version: int, new: bool = False, over: int | None = None) -> dict[str, Any]:
    """What `promotion.release` returns; the registry has the version already, so that what fails here is only told."""
    name, send = this.resolved.registry, bool(this.wish.retrain)
    try:
        if not new:
            return promotion.made_up(this.owner, this.tree, name, version, send)
        return promotion.release(this.owner, this.tree, name, version, this.report.commit, send, over, this.wish.lease)
    except PreflowError as error:
        return {"unsent": f"{error}; `preflow promote {this.report.run}` keeps and sends it"}


def _stays(this: Run, reigning: Mapping[str, Any] | None, md5: str) -> str:
    """Why the champion stays although the gate says yes; "" where it need not."""
    name = this.resolved.registry
    if reigning and reigning.get("by") == "git":
        return (
            f"git has {name} v{reigning['version']}, and the MLflow of this clone has no {name} at all: set "
            "MLFLOW_TRACKING_URI to the server that has it, or give this one another `registry.name`"
        )
    held = tracking.holding(this.owner, name, md5)
    if held is not None and not this.wish.promote:  # somebody has taken the alias from it, and knows why
        other = f"the champion is v{reigning['version']}" if reigning else "no version is the champion"
        return f"{name} v{held} is this policy, and {other} by choice; `preflow rollback {name}/{held}` brings it back"
    if reigning and reigning["version"] != champion.compared_with(this.tree):
        return f"the champion is v{reigning['version']} by now; run again"
    return ""


def _forget_scratch(this: Run, name: str) -> None:
    attempts = sorted(this.place.journals.glob(f"{name}-*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    event = last_event(attempts[-1].parent, "start") if attempts else None
    if event is not None and "key" in event:
        guards.forget(home(this.owner) / "scratch" / f"{name}-{str(event['key'])[:16]}")
