"""MLflow's view of runs, made from journals: a dead, slow or absent tracking server costs a run nothing.

Every function here may be called again at any time and adds nothing twice. `begin_run`, `replay`, `finish_run` and
`reconcile` never fail a run: what MLflow did not take stays in the journal, one line says so, and the next `preflow`
command ships it. Nothing here imports MLflow before there is something to ship.

`root` is the checkout that owns `.preflow/` and `mlruns/`; a run in a worktree says where with `info["tree"]`.
"""

import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tasks import owners
from tasks.ahead import import_ahead
from tasks.outcome import StageResult
from tasks.tracking import comparisons, snapshots
from tasks.tracking.boundary import GAVE_UP, LATER, PATIENCE, guarded, left, say, sentence, within
from tasks.tracking.registered import champion, holding, knows, version, versions
from tasks.tracking.runs import RunRecord, begin, runs_of

__all__ = [
    "announce", "attach", "begin_comparison", "begin_run", "bytes_of", "champion", "crown", "finish_comparison",
    "finish_run", "get_ready", "holding", "keep", "knows", "let_go", "promote", "reconcile", "replay", "version",
    "versions",
]  # fmt: skip

_keepers: dict[str, "subprocess.Popen[bytes]"] = {}


def announce(root: Path, run_id: str, info: Mapping[str, Any]) -> None:
    """Write down what a run is, before its first stage and without MLflow; the first word counts.

    All keys of `info` may be absent: `name` (what a reader calls the run), `tree` (folder with the dvc.yaml, dvc.lock
    and params.yaml of this run; default `root`), `profile`, `ref` and `commit` (git), `command` (as typed),
    `flow_run_id` (Prefect), `params` (the resolved configuration; default `tree`/params.yaml), `registry` (name of the
    registered model, default "policy"; it names the experiment too), `tags` (anything else).
    """
    begin(root, run_id, info, owners.this_process())
    run = RunRecord.read(root, run_id)
    if not run.begun.exists():
        snapshots.keep_beginning(run.tree, run.begun)


def begin_run(root: Path, run_id: str, info: Mapping[str, Any]) -> None:
    """Announce a run and open its parent run in MLflow."""
    announce(root, run_id, info)
    replay(root, run_id)


def keep(root: Path, run_id: str, gently: bool = False) -> None:
    """Have a process of its own tell MLflow of a run that this one will announce: opening MLflow takes seconds.

    `finish_run` waits for it, `let_go` ends it without. `gently`: it gives way to the stages, and to what starts them.
    """
    keeper = _keepers[run_id] = subprocess.Popen(
        [sys.executable, "-m", "tasks.tracking", "keep", run_id, *(["--gently"] if gently else [])],
        cwd=root,
        stdin=subprocess.PIPE,  # its end says that the run has ended, however that came about
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    threading.Thread(target=_pass_on, args=(keeper,), daemon=True).start()


def get_ready() -> None:
    """Import MLflow where this process will ask something of it later, beside what it waits for."""
    import_ahead("mlflow", "mlflow.store.db.utils")


def let_go(run_id: str) -> subprocess.Popen[bytes] | None:
    """Tell the process of `keep` that all is said, if there is one; returns it."""
    keeper = _keepers.pop(run_id, None)
    if keeper and keeper.stdin:
        keeper.stdin.close()
    return keeper


def replay(root: Path, run_id: str) -> None:
    """Ship what the stages of a run have said since the last call; cheap when that is nothing.

    Call it every second or two, from a thread that may be slow.
    """

    def ship() -> None:
        from tasks.tracking.shipping import ship_run

        ship_run(RunRecord.read(root, run_id))

    guarded(root, ship)


def finish_run(
    root: Path, run_id: str, results: Mapping[str, StageResult], status: str, commit: str = ""
) -> dict[str, Any]:
    """Ship the rest, add cached stages and lineage, describe the run and close it.

    Args:
        results: what became of each stage, by name.
        status: "FINISHED", "FAILED", or "KILLED" for a run that was stopped: who stops it does not wait for MLflow, so
            another process ships it.
        commit: what the run left in git, where that is another than it began with.

    Returns:
        `{"run": id, "experiment": id, "stages": {name: id}}` of MLflow; `{}` where it did not answer yet.
    """

    run = RunRecord.read(root, run_id)
    done = [name for name, result in results.items() if result.state in ("ran", "cached")]
    snapshots.keep_end(run.tree, run.ended, done)
    run.finish({name: asdict(result) for name, result in results.items()}, status, commit)
    keeper = let_go(run_id)
    if status == "KILLED":
        if keeper is None:
            _reconcile_in_background(root)
        return {}
    code = keeper.wait() if keeper else None
    if code == GAVE_UP:
        say(f"MLflow did not take all of run {run_id} within {PATIENCE:.0f} s of its end; {LATER}")
        return {}
    if code == 0:
        return _close(run) if (run.folder / "shipped").exists() else {}
    with within(PATIENCE):
        return guarded(root, lambda: _close(run), patient=True) or {}


def attach(root: Path, run_id: str, page: Path) -> None:
    """Show the page of a run that is over with its parent run, as `report/report.html`.

    Where MLflow has not heard the end of the run yet, the page goes with that: `tasks.tracking.closing` looks for it.
    """

    from tasks.tracking.closing import log_page

    try:
        with within(PATIENCE):
            log_page(RunRecord.read(root, run_id), page)
    except Exception as error:  # whatever it is: the run is over, and nothing ships its page later
        say(f"MLflow: {sentence(error)}; the page of run {run_id} is in {page} alone")


def reconcile(root: Path) -> None:
    """Ship what is left of earlier runs; `run` and `status` call it, and it takes milliseconds when there is nothing.

    Runs that died are closed as KILLED, a `dvc repro` typed by hand gets its skipped stages, and what a server that was
    away did not hear is told again. A server so slow that this takes minutes is told by another process.
    """
    if not tell_old(root, PATIENCE):
        say("MLflow is slow: what is left of earlier runs is shipped beside")
        _reconcile_in_background(root)


def tell_old(root: Path, seconds: float) -> bool:
    """As `reconcile`, for so long at most; False where that was too short."""
    waiting = [run for run in runs_of(root) if run.is_over()]
    comparing = comparisons.waiting(root)
    tellings = [partial(_close, run) for run in waiting] + [partial(comparisons.ship, root, key) for key in comparing]
    with within(seconds):
        if not tellings or not guarded(root, lambda: _answers(root)):
            return True
        for tell in tellings:
            guarded(root, tell, patient=True)
            if not left():
                return False
    return True


def begin_comparison(root: Path, key: str, about: Mapping[str, Any]) -> None:
    """Announce a comparison and open its parent run in MLflow, below which the runs of its cells will be.

    `about` and what `finish_comparison` is told: see `tasks.tracking.comparisons`.
    """
    comparisons.begin(root, key, about)
    guarded(root, lambda: comparisons.open_run(root, key))


def finish_comparison(root: Path, key: str, told: Mapping[str, Any]) -> None:
    """Tell MLflow what came of a comparison; what it has heard before is not said again."""
    if comparisons.finish(root, key, told):
        guarded(root, lambda: comparisons.ship(root, key), patient=True)


def promote(
    root: Path,
    run_id: str,
    candidate: str,
    name: str = "policy",
    tree: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Register the candidate's policy of a run as a new version of `name` and move the alias `champion` to it.

    `candidate` is a policy as the evaluation calls it ("rl", "dpo", …). The same bytes are never registered twice:
    their version gets the alias, and tags that name this run. Call it after `finish_run`.

    `tree` is where the dvc.yaml and dvc.lock of the run are by now (default: where it worked), `tags` go to the version
    besides its own.

    Returns:
        The version that `champion` now names.

    Raises:
        DependencyDown: MLflow did not answer; nothing was promoted.
        Busy: another process is at telling MLflow of the run still; `champion` has not moved.
        PreflowError: the run has no such candidate.
    """
    from tasks.tracking.registry import promote as promote_now

    return promote_now(RunRecord.read(root, run_id), candidate, name, tree, tags or {})


def crown(root: Path, name: str, number: int, tags: Mapping[str, str]) -> None:
    """Move the alias `champion` of `name` to a version that there is, and add tags to that.

    Raises:
        DependencyDown: the registry did not answer.
    """
    from tasks.tracking.registry import crown as crown_now

    crown_now(root, name, number, tags)


def bytes_of(tree: Path, candidate: str) -> str | None:
    """md5 of a candidate's policy, as the dvc.lock of a tree has it; to compare with the `md5` of `champion`."""
    from tasks.tracking.registry import bytes_of as bytes_now

    return bytes_now(tree, candidate)


def _close(run: RunRecord) -> dict[str, Any]:
    from tasks.tracking.closing import close_run

    return close_run(run)


def _answers(root: Path) -> bool:
    from tasks.tracking.store import connect

    store = connect(root)
    store.client.search_experiments(max_results=1)
    store.vouch()
    return True


def _pass_on(keeper: "subprocess.Popen[bytes]") -> None:
    """What it says becomes ours, which a table that moves makes room for."""
    for line in keeper.stderr or ():
        say(line.decode("utf-8", "replace").rstrip("\n"))


def _reconcile_in_background(root: Path) -> None:
    subprocess.Popen(
        [sys.executable, "-m", "tasks.tracking", "reconcile"],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
