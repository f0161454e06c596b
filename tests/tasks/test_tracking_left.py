"""Runs that nobody ended: whose process, host or worktree is gone, or that were begun by hand."""

import errno
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks import locks, owners, sums, tracking
from tasks.journal import home
from tasks.outcome import StageResult
from tasks.tracking.runs import RunRecord

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


def owned(facts: dict[str, Any], **owner: Any) -> str:
    """What is written down of a run, with this of its process otherwise."""
    return json.dumps(facts | {"owner": facts["owner"] | owner})


def test_what_a_stage_that_outlives_its_run_writes_is_no_damage(root: Path) -> None:
    tracking.announce(root, "r1", {})
    toy.end(toy.start(root, "r1", "collect"), root, "collect")
    orphan = toy.start(root, "r1", "sft")
    orphan.table("samples", [{"said": "blue"}])
    tracking.finish_run(root, "r1", toy.told("failed"), "FAILED")
    orphan.table("samples", [{"said": "red"}])
    listed = {path: sums.unlike(path, sha256) for path, sha256 in sums.look(home(root) / "journal/r1")}
    assert {path.relative_to(home(root) / "journal/r1").as_posix(): why for path, why in listed.items()} == {
        "run.json": "", "finish.json": "", "collect-1/events.jsonl": ""
    }  # fmt: skip


def test_a_stage_that_died_is_closed_and_its_second_attempt_is_another_child(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    toy.start(root, "r1", "rl", pid=dead.pid)
    tracking.replay(root, "r1")
    toy.start(root, "r1", "rl")
    tracking.replay(root, "r1")
    found = {run.info.run_name: run.info.status for run in toy.runs(root)}
    assert found["rl"] == "KILLED"
    assert found["rl (attempt 2)"] == "RUNNING"


def test_a_run_whose_worktree_is_gone_has_its_numbers_told(root: Path) -> None:
    """As after an outage of the server: a run that went well has its worktree removed, whatever MLflow has taken."""
    tracking.announce(root, "r1", {"tree": str(root / "gone"), "params": {"seed": 0}})
    log = toy.start(root, "r1", "sft")
    log({"sft/loss": 0.25}, 3)
    toy.make_outputs(root, "sft")
    toy.end(log, root, "sft")
    RunRecord.read(root, "r1").finish({"sft": {"state": "ran"}}, "FINISHED")
    tracking.reconcile(root)
    experiment = toy.client(root).get_experiment_by_name("preflow").experiment_id
    found = {run.data.tags.get("preflow.stage"): run for run in toy.client(root).search_runs([experiment])}
    assert found["sft"].data.metrics["sft/loss"] == 0.25
    assert {run.info.status for run in found.values()} == {"FINISHED"} and len(found) == 2
    assert (home(root) / "journal" / "r1" / "shipped").exists()


@pytest.mark.faults(
    30,
    injected="a run left RUNNING by a dead process, and one of another machine",
    happens="the next command closes the first as KILLED; the other stays RUNNING while anything is heard of it",
)
def test_a_run_whose_process_is_gone_is_closed_by_the_next_command(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    path = home(root) / "journal/r1/run.json"
    facts = json.loads(path.read_text())
    path.write_text(owned(facts, host="another machine", machine="", pid=1))
    tracking.reconcile(root)
    assert {run.info.status for run in toy.runs(root)} == {"RUNNING"}  # that machine may know better
    path.write_text(owned(facts, started=1.0))
    tracking.reconcile(root)
    assert {run.info.status for run in toy.runs(root)} == {"KILLED"}
    tracking.reconcile(root)
    assert len(toy.runs(root)) == 2


@pytest.mark.faults(
    30,
    injected="a run left RUNNING by another host: a container that was replaced, a machine that has another name now",
    happens="closed as KILLED once neither journals nor its lock were touched for ten minutes",
)
def test_a_run_of_another_host_is_closed_when_nothing_is_heard_of_it(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    folder = home(root) / "journal/r1"
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(owned(facts, host="another machine", machine="another boot", pid=1))
    run = RunRecord.read(root, "r1")
    with locks.held(home(root) / "run.lock", "run r1", "this workspace"):
        for path in folder.rglob("*"):
            os.utime(path, (0, 0))
        assert not run.is_over()
    assert run.is_over()
    with locks.held(home(root) / "run.lock", "run r2", "this workspace"):
        assert run.is_over()
    (folder / "sft-1/events.jsonl").touch()
    assert not run.is_over()
    os.utime(folder / "sft-1/events.jsonl", (0, 0))
    tracking.reconcile(root)
    assert {run.info.status for run in toy.runs(root)} == {"KILLED"}


@pytest.mark.parametrize("trouble", ["full", "vanishing", "unreadable"])
def test_files_of_another_host_that_cannot_be_looked_at_fail_nothing(
    trouble: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a run nor of a comparison, which are then not taken for over; what only vanishes counts no more."""
    tracking.announce(root, "r1", {})
    tracking.comparisons.begin(root, "c1", {"name": "leash"})
    journal, comparison = home(root) / "journal/r1", home(root) / "compare/runs/c1"
    for path in (journal / "run.json", comparison / "comparison.json"):
        facts = json.loads(path.read_text())
        path.write_text(owned(facts, host="another", machine="", pid=1))
        (path.parent / "going").touch()
        for sign in (path, path.parent / "going"):
            os.utime(sign, (0, 0))

    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    really = Path.is_file

    def is_file(path: Path) -> bool:
        if path.name != "going":
            return really(path)
        if trouble == "unreadable":
            raise OSError(errno.EIO, "Input/output error")
        path.unlink()
        return True

    if trouble == "full":
        monkeypatch.setattr(owners, "TemporaryFile", full)
    else:
        monkeypatch.setattr(Path, "is_file", is_file)
        (home(root) / "compare/compare.lock").touch()
        os.utime(home(root) / "compare/compare.lock", (0, 0))
    over = trouble == "vanishing"
    assert RunRecord(root, "r1", json.loads((journal / "run.json").read_text())).is_over() == over
    assert tracking.comparisons.waiting(root) == ["c1"] * over
    (journal / "going").touch()
    os.utime(journal / "going", (0, 0))
    tracking.reconcile(root)


def test_a_run_of_this_machine_is_known_by_its_boot_whatever_the_host_is_called(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    path = home(root) / "journal/r1/run.json"
    facts = json.loads(path.read_text())
    path.write_text(owned(facts, host="its name before"))
    assert not RunRecord.read(root, "r1").is_over()
    path.write_text(owned(facts, host="its name before", started=1.0))
    assert RunRecord.read(root, "r1").is_over()


def test_a_stopped_run_is_shipped_by_another_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(tracking, "_reconcile_in_background", started.append)
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    stopped = {"sft": StageResult("sft", "stopped", 2.0, "stopped; goes on", 85)}
    assert tracking.finish_run(root, "r1", stopped, "KILLED") == {}
    assert started == [root]
    tracking.reconcile(root)
    found = {run.info.run_name: run for run in toy.runs(root)}
    assert {name: run.info.status for name, run in found.items()} == {"r1": "KILLED", "sft": "KILLED"}
    tags = found["sft"].data.tags
    assert (tags["preflow.state"], tags["preflow.reason"]) == ("stopped", "stopped; goes on")
    assert "failed" not in found["r1"].data.tags["mlflow.note.content"]


def test_a_run_that_was_stopped_while_it_waited_for_another_is_told(root: Path) -> None:
    """An attempt at a stage that is in use elsewhere leaves an empty journal, of which MLflow has no child."""
    tracking.begin_run(root, "r1", {})
    toy.end(toy.start(root, "r1", "collect"), root, "collect")
    toy.write_file(home(root) / "journal/r1/sft-1/events.jsonl", "")
    results = {"collect": StageResult("collect", "ran"), "sft": StageResult("sft", "stopped", 2.0, "goes on", 85)}
    RunRecord.read(root, "r1").finish({name: asdict(one) for name, one in results.items()}, "KILLED")
    tracking.reconcile(root)
    assert (home(root) / "journal/r1/shipped").exists()
    assert {run.info.run_name: run.info.status for run in toy.runs(root)} == {"r1": "KILLED", "collect": "FINISHED"}


def test_a_torn_journal_stops_no_other(root: Path) -> None:
    toy.write_file(home(root) / "journal/torn/run.json", "{")
    toy.write_file(home(root) / "journal/old/sft-1/events.jsonl", '{"event": "start", "time": 1.0}\n')
    tracking.begin_run(root, "r1", {})
    RunRecord.read(root, "r1").finish({}, "FINISHED")
    tracking.reconcile(root)
    assert [run.info.status for run in toy.runs(root)] == ["FINISHED"]


@pytest.fixture
def by_hand(root: Path) -> tuple[Path, str]:
    """A run that nobody began: journals of stages under a dvc that has gone since."""
    run_id = "dvc-1-1"
    owner = {"owner": {"host": platform.node(), "pid": 1, "started": 1.0}, "command": "dvc repro"}
    toy.whole_run(root, "earlier")
    log = toy.start(root, run_id, "gate", **owner)
    toy.end(log, root, "gate")
    return root, run_id


def test_dvc_by_hand_gets_a_parent_and_its_skipped_stages(by_hand: tuple[Path, str]) -> None:
    root, run_id = by_hand
    tracking.reconcile(root)
    parent = toy.client(root).search_runs(
        ["1"], f"tags.`preflow.run` = '{run_id}' AND tags.`preflow.kind` = 'pipeline'"
    )[0]
    assert (parent.info.run_name, parent.info.status) == ("dvc repro", "FINISHED")
    named = toy.children(root, parent.info.run_id)
    assert set(named) == {"gate", *(f"{stage} (cached)" for stage in toy.STAGES if stage != "gate")}
    assert named["gate"].data.tags["dvc.out.data/13_gate/gate.json"]


def test_a_lock_that_speaks_of_other_bytes_links_nothing(by_hand: tuple[Path, str]) -> None:
    root, run_id = by_hand
    log = toy.start(root, run_id, "gate")
    toy.write_file(root / "data/13_gate/gate.json", '{"promote": false, "candidate": "rl", "checks": []}')
    toy.end(log, root, "gate")  # and dvc was killed before it wrote the lock
    tracking.reconcile(root)
    second = next(run for run in toy.runs(root) if run.info.run_name == "gate (attempt 2)")
    assert "dvc.out.data/13_gate/gate.json" not in second.data.tags
