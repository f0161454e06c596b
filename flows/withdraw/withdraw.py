"""Take rows out of all that is made from now on, and say what was made of them.

A withdrawal is a setting: `withdraw` of params.yaml, which is part of the keys of `collect`, `prepare` and `annotate`.
So it is versioned with the code, no profile has to repeat it, and the data without the rows is a version like others.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import dvc, guards, objects, workspace
from flows.launch import new_name
from flows.lineage.facts import Facts, facts_of
from flows.lineage.rows import Wanted
from flows.lineage.runs import checkout, known_runs, module_of, versions
from flows.request import commit_message
from flows.runner import Place, run_stage
from flows.withdraw import purge
from rlhf.errors import Busy, DataRefused, PreflowError
from rlhf.records import read_rows
from tasks import tracking
from tasks.config import read_yaml
from tasks.config.withdraw import Withdraw
from tasks.graph import load_graph
from tasks.journal import home
from tasks.outcome import StageResult

DATA_STAGES = ("collect", "prepare", "validate")
_FIELDS = {"row": "rows", "annotator": "annotators", "source": "sources"}


@dataclass(frozen=True)
class Done:
    """A withdrawal that was carried out."""

    run: str
    """The run that made the new version of the data; "" where nothing had to be made."""
    before: str
    """Version of the data."""
    after: str
    rows: dict[str, int]
    """Rows of each kind that are left clean."""
    left: int
    """Rows that are withdrawn and still in what was written; 0, or the withdrawal has failed."""


def touched_by(root: Path, wanted: Wanted, say: Callable[[str], None]) -> Facts:
    """What the rows reached in all runs that are kept here. Raises PreflowError where there are no such rows."""
    return facts_of(dvc.cache(root), wanted, known_runs(root, say), versions(root, say))


def carry_out(root: Path, wanted: Wanted, say: Callable[[str], None]) -> Done:
    """Write the setting into params.yaml, and make the data without the rows.

    Raises:
        Busy: a run is going on in this checkout.
        DataRefused: what is left does not pass the gate; params.yaml keeps the setting.
        PreflowError: a stage failed.
    """
    with guards.held(home(root) / "run.lock", f"withdraw {wanted.text}"):
        return _carry_out(root, wanted, say)


def carry_out_and_purge(root: Path, wanted: Wanted, say: Callable[[str], None]) -> tuple[Done, Facts, purge.Purged]:
    """As `carry_out`, then delete what holds the rows, as runs are now and not as they were when somebody was asked.

    Raises:
        Busy: a run is going on, or one was while the data was made; then nothing is deleted.
        DataRefused, PreflowError: as of `carry_out`.
    """
    with objects.nobody_else(root, f"withdraw {wanted.text}"):
        facts = touched_by(root, wanted, lambda _: None)
        done = _carry_out(root, wanted, say)
        objects.refuse_if_worktree_busy(root)
        looked = {(run.ref, run.commit) for run, _ in facts.held}
        since = [run.name for run in known_runs(root) if run.ref and (run.ref, run.commit) not in looked]
        if others := [name for name in since if name != done.run]:
            raise Busy(
                f"run {', '.join(others)} has come while the data was made, and may hold the rows: nothing is deleted "
                "yet, give the same command again"
            )
        return done, facts, purge.purge(root, facts)


def _carry_out(root: Path, wanted: Wanted, say: Callable[[str], None]) -> Done:
    run, here = new_name(), checkout(root)
    before = here.data_version if here else ""
    _set(root / "params.yaml", wanted)
    results = _make(root, run, say)
    dvc.order_lock(root, load_graph(root))
    ran = any(one.state == "ran" for one in results.values())
    if ran:
        _keep(root, run, wanted, results)
    made = checkout(root)
    if made is None:
        raise PreflowError(f"{root} has no dvc.lock after its data was made")
    left = _left(root, wanted)
    if left:
        raise PreflowError(f"{left} rows of {wanted.text} are still in {made.name}'s data: this is a fault of ours")
    return Done(run if ran else "", before, made.data_version, _clean(root), left)


def told(facts: Facts, done: Done | None) -> dict[str, Any]:
    """For programs."""
    return facts.told() | {
        "subject": facts.wanted.text,
        "retire": {
            "models": [{"path": one.item.path, "md5": one.item.md5, "runs": runs} for one, runs in facts.retired()],
            "versions": [
                {"name": version.name, "version": version.number, "champion": version.is_champion}
                for version, _ in facts.retired_versions()
            ],
        },
        "withdrawn": asdict(done) if done else None,
    }


def _set(path: Path, wanted: Wanted) -> None:
    """One more name in the setting, and nothing else of the file changed.

    Raises:
        PreflowError: the setting is there and not on one line of its own.
    """
    text, name = path.read_text(encoding="utf-8"), _FIELDS[wanted.kind]
    section = read_yaml(path).get("withdraw") or {}
    names = list(section.get(name) or [])
    if wanted.value in names:
        return
    line = f"  {name}: {json.dumps([*names, wanted.value], ensure_ascii=False)}\n"
    there = re.compile(rf"(?ms)^withdraw:[ ]*\n(?:[ #][^\n]*\n)*?(?P<line>  {name}:[ ]*\[[^\n]*\n)")
    if match := there.search(text):
        fresh = text[: match.start("line")] + line + text[match.end("line") :]
    elif name not in section and (match := re.search(r"(?m)^withdraw:[ ]*\n", text)):
        fresh = text[: match.end()] + line + text[match.end() :]
    elif not section:
        fresh = f"{text.rstrip()}\n\nwithdraw:\n{line}"
    else:
        raise PreflowError(f"{path}: add {wanted.value} to withdraw.{name}, which is not written as [ … ] on one line")
    beside = path.with_suffix(".yaml.tmp")
    beside.write_text(fresh, encoding="utf-8")
    beside.replace(path)


def _make(root: Path, run: str, say: Callable[[str], None]) -> dict[str, StageResult]:
    """The stages as far as the gate, one after the other."""
    graph = load_graph(root)
    place = Place(root, root, run)
    dvc.mend_rwlock(root)
    about = {"name": f"{run} withdrawal", "command": "preflow withdraw", "tree": str(root)}
    tracking.announce(root, run, about)
    results: dict[str, StageResult] = {}
    for name in graph.stages:
        if module_of(graph, name) not in DATA_STAGES:
            continue
        say(f"{name} …")
        results[name] = run_stage(place, name, on_line=lambda _: None, cancel=threading.Event())
        if results[name].state == "failed":
            tracking.finish_run(root, run, results, "FAILED")
            refused = results[name].exit_code == DataRefused.exit_code
            error = DataRefused if refused else PreflowError
            raise error(f"{name}: {results[name].reason}; params.yaml keeps the withdrawal")
    return results


def _keep(root: Path, run: str, wanted: Wanted, results: dict[str, StageResult]) -> None:
    """As a run on a ref of its own, which later runs of the plain parameters do not start from."""
    lock = (root / "dvc.lock").read_bytes()
    message = commit_message(run, f"withdraw {wanted.text}")
    kept = workspace.snapshot(root, run, message, extra={"dvc.lock": lock})
    tracking.finish_run(root, run, results, "FINISHED", kept.commit)


def _left(root: Path, wanted: Wanted) -> int:
    """Rows that should be gone, in the prepared and validated files as they lie."""
    graph = load_graph(root)
    stages = [stage for name, stage in graph.stages.items() if module_of(graph, name) in ("prepare", "validate")]
    files = [file for stage in stages for out in stage.outs for file in (root / out).glob("*.jsonl")]
    setting: Withdraw = wanted.withdrawal
    return sum(bool(setting.reason(row)) for file in files for row in read_rows(file))


def _clean(root: Path) -> dict[str, int]:
    """What the gate let through, by kind."""
    path = root / "data" / "03_validated" / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {kind: int(counts["clean"]) for kind, counts in found.items() if isinstance(counts, dict)}
