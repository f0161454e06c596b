"""Journals into MLflow, on a toy pipeline and a database in a temporary folder."""

import errno
import json
import os
import platform
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks import locks, owners, sums, tracking
from tasks.journal import home
from tasks.outcome import StageResult
from tasks.tracking import boundary, shipping, store
from tasks.tracking.runs import RunRecord, write_json_atomically
from tasks.tracking.store import connect, uri_of
from tasks.tracking.values import MAX_PARAM, params_of

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


@pytest.fixture
def root(store_root: Path) -> Path:
    return toy.write_tree(store_root)


def told(state: str = "ran") -> dict[str, StageResult]:
    return {stage: StageResult(stage, state, 1.5) for stage in toy.STAGES}  # type: ignore[arg-type]


def client(root: Path) -> Any:
    return connect(root).client


def runs(root: Path) -> list[Any]:
    return list(client(root).search_runs(["1"], order_by=["attributes.start_time"]))


def children(root: Path, parent: str) -> dict[str, Any]:
    found = client(root).search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


def whole_run(root: Path, run_id: str = "r1", gold: float = 0.5) -> dict[str, Any]:
    tracking.begin_run(root, run_id, {"name": run_id, "ref": f"refs/preflow/{run_id}", "command": "preflow run"})
    toy.run_all(root, run_id, gold)
    return tracking.finish_run(root, run_id, told(), "FINISHED")


def test_a_run_becomes_a_parent_with_one_child_a_stage(root: Path) -> None:
    ids = whole_run(root)
    assert list(ids["stages"]) == list(toy.STAGES)
    parent = client(root).get_run(ids["run"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sft.lr"] == "0.001"
    assert parent.data.metrics["gold_reward/rl"] == 0.5
    assert parent.data.metrics["gate/promote"] == 1.0
    assert parent.data.tags["git.ref"] == "refs/preflow/r1"
    assert parent.data.tags["versions.mlflow"]
    assert "| **rl** ★&emsp; | 0.50 ± 0.10" in parent.data.tags["mlflow.note.content"]
    named = children(root, ids["run"])
    assert set(named) == set(toy.STAGES)
    rl = named["rl"]
    assert (rl.info.status, rl.data.params["rl.lr"], rl.data.tags["system.device"]) == ("FINISHED", "0.001", "cpu")
    assert rl.data.metrics["final/val.loss"] == 0.5
    history = client(root).get_metric_history(rl.info.run_id, "rl/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_stages_say_what_they_cost_and_the_run_what_they_cost_together(root: Path) -> None:
    """A second of their own each, and half a second around it."""
    ids = whole_run(root)
    rl = children(root, ids["run"])["rl"].data.metrics
    assert (rl["cost/seconds"], rl["cost/seconds_train"], rl["cost/seconds_orchestration"]) == (1.5, 0.25, 0.5)
    assert (rl["cost/flops"], rl["cost/tokens_trained"], rl["cost/matmul_share"]) == (2e9, 300.0, 0.4)
    parent = client(root).get_run(ids["run"]).data.metrics
    assert (parent["cost/seconds"], parent["cost/flops"], parent["cost/tokens_processed"]) == (7.5, 1e10, 2000.0)
    tracking.begin_run(root, "r2", {})
    again = tracking.finish_run(root, "r2", told("cached"), "FINISHED")
    cached = children(root, again["run"])["rl (cached)"].data.metrics
    assert (cached["cost/flops"], cached["cost_then/flops"], cached["cost_then/seconds"]) == (0.0, 2e9, 1.5)
    assert "cost/matmul_share" not in cached and cached["cost_then/matmul_share"] == 0.4
    assert client(root).get_run(again["run"]).data.metrics["cost/seconds"] == 0.0


def test_tables_are_those_of_mlflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = whole_run(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(root))
    samples = client(root).load_table(ids["experiment"], "samples.json", run_ids=[ids["run"]])
    rows = [
        {"prompt": "Name a colour.", "policy": name, "completion": f"blue, says {name}", "gold_reward": worth}
        for name, worth in (("sft", pytest.approx(0.3)), ("rl", 0.5))
    ]
    assert samples[list(rows[0])].to_dict("records") == rows


def test_secrets_stay_out(root: Path) -> None:
    ids = whole_run(root)
    parent = client(root).get_run(ids["run"])
    assert parent.data.params["sft.note"] == "[Hugging Face token]"
    assert "hf_abc" not in (root / "mlruns/artifacts" / ids["run"] / "artifacts/config/params.yaml").read_text()


def test_a_crash_between_points_and_cursor_adds_nothing_twice(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    log = toy.start(root, "r1", "rl")
    log({"rl/loss": 1.0, "rl/kl": float("nan")}, 0)
    before = RunRecord.read(root, "r1").state()
    tracking.replay(root, "r1")
    RunRecord.read(root, "r1").save(before)  # the crash: MLflow has it all, the cursor does not know
    log({"rl/loss": 0.5, "rl/kl": float("inf")}, 1)
    tracking.replay(root, "r1")
    tracking.replay(root, "r1")
    rl = [run for run in runs(root) if run.info.run_name == "rl"]
    assert len(rl) == 1
    points = client(root).get_metric_history(rl[0].info.run_id, "rl/loss")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 0.5)]
    assert len(client(root).get_metric_history(rl[0].info.run_id, "rl/kl")) == 2


def test_a_crash_after_a_run_was_made_finds_it_again(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    tracking.replay(root, "r1")
    (RunRecord.read(root, "r1").folder / "mlflow.json").unlink()
    tracking.replay(root, "r1")
    assert len(runs(root)) == 2


def test_what_a_stage_that_outlives_its_run_writes_is_no_damage(root: Path) -> None:
    tracking.announce(root, "r1", {})
    toy.end(toy.start(root, "r1", "collect"), root, "collect")
    orphan = toy.start(root, "r1", "sft")
    orphan.table("samples", [{"said": "blue"}])
    tracking.finish_run(root, "r1", told("failed"), "FAILED")
    orphan.table("samples", [{"said": "red"}])
    listed = {path: sums.unlike(path, sha256) for path, sha256 in sums.look(home(root) / "journal/r1")}
    assert {path.relative_to(home(root) / "journal/r1").as_posix(): why for path, why in listed.items()} == {
        "run.json": "", "finish.json": "", "collect-1/events.jsonl": ""
    }  # fmt: skip


def test_two_threads_of_a_process_write_one_record_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.replace

    def replace(fresh: Path, path: Path) -> None:
        monkeypatch.setattr(os, "replace", really)
        other = threading.Thread(target=write_json_atomically, args=(path, "the other's"))
        other.start()
        other.join()
        really(fresh, path)

    monkeypatch.setattr(os, "replace", replace)
    write_json_atomically(tmp_path / "mlflow.json", "mine")
    assert json.loads((tmp_path / "mlflow.json").read_text()) == "mine"


def test_half_a_line_waits_for_its_other_half(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    log = toy.start(root, "r1", "sft")
    log({"sft/loss": 1.0}, 0)
    events = home(root) / "journal/r1/sft-1/events.jsonl"
    line = json.dumps({"event": "metrics", "time": 1.0, "step": 1, "metrics": {"sft/loss": 0.5}}) + "\n"
    for part in (line[:20], line[20:]):
        with events.open("a") as file:
            file.write(part)
        tracking.replay(root, "r1")
    run = next(run for run in runs(root) if run.info.run_name == "sft")
    points = client(root).get_metric_history(run.info.run_id, "sft/loss")
    assert {point.step: point.value for point in points} == {0: 1.0, 1: 0.5}


def test_more_points_than_one_call_takes(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    log = toy.start(root, "r1", "rl")
    for step in range(1234):
        log({"rl/loss": float(step)}, step)
    tracking.replay(root, "r1")
    run = next(run for run in runs(root) if run.info.run_name == "rl")
    assert len(client(root).get_metric_history(run.info.run_id, "rl/loss")) == 1234


def test_a_stage_that_died_is_closed_and_its_second_attempt_is_another_child(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    toy.start(root, "r1", "rl", pid=dead.pid)
    tracking.replay(root, "r1")
    toy.start(root, "r1", "rl")
    tracking.replay(root, "r1")
    found = {run.info.run_name: run.info.status for run in runs(root)}
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
    experiment = client(root).get_experiment_by_name("preflow").experiment_id
    found = {run.data.tags.get("preflow.stage"): run for run in client(root).search_runs([experiment])}
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
    path.write_text(
        json.dumps(facts | {"owner": facts["owner"] | {"host": "another machine", "machine": "", "pid": 1}})
    )
    tracking.reconcile(root)
    assert {run.info.status for run in runs(root)} == {"RUNNING"}  # that machine may know better
    path.write_text(json.dumps(facts | {"owner": facts["owner"] | {"started": 1.0}}))
    tracking.reconcile(root)
    assert {run.info.status for run in runs(root)} == {"KILLED"}
    tracking.reconcile(root)
    assert len(runs(root)) == 2


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
    elsewhere = {"host": "another machine", "machine": "another boot", "pid": 1}
    (folder / "run.json").write_text(json.dumps(facts | {"owner": facts["owner"] | elsewhere}))
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
    assert {run.info.status for run in runs(root)} == {"KILLED"}


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
        path.write_text(json.dumps(facts | {"owner": facts["owner"] | {"host": "another", "machine": "", "pid": 1}}))
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
    path.write_text(json.dumps(facts | {"owner": facts["owner"] | {"host": "its name before"}}))
    assert not RunRecord.read(root, "r1").is_over()
    path.write_text(json.dumps(facts | {"owner": facts["owner"] | {"host": "its name before", "started": 1.0}}))
    assert RunRecord.read(root, "r1").is_over()


def test_cached_stages_are_light_runs_with_full_lineage(root: Path) -> None:
    first = whole_run(root)
    tracking.begin_run(root, "r2", {"name": "again"})
    second = tracking.finish_run(root, "r2", told("cached"), "FINISHED")
    made, light = (client(root).get_run(ids["stages"]["rl"]) for ids in (first, second))
    assert light.info.run_name == "rl (cached)"
    assert (light.data.tags["cached"], light.data.tags["cached_from"]) == ("true", made.info.run_id)
    assert light.data.metrics["final/val.loss"] == 0.5
    assert light.data.params["rl.kl_coef"] == "0.1"
    assert [output.model_id for output in light.outputs.model_outputs] == [
        output.model_id for output in made.outputs.model_outputs
    ]
    assert len(client(root).search_logged_models(["1"])) == 2
    assert client(root).get_run(second["run"]).data.metrics["gold_reward/rl"] == 0.5


def test_a_stopped_run_is_shipped_by_another_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(tracking, "_reconcile_in_background", started.append)
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    stopped = {"sft": StageResult("sft", "stopped", 2.0, "stopped; goes on", 85)}
    assert tracking.finish_run(root, "r1", stopped, "KILLED") == {}
    assert started == [root]
    tracking.reconcile(root)
    found = {run.info.run_name: run for run in runs(root)}
    assert {name: run.info.status for name, run in found.items()} == {"r1": "KILLED", "sft": "KILLED"}
    tags = found["sft"].data.tags
    assert (tags["preflow.state"], tags["preflow.reason"]) == ("stopped", "stopped; goes on")
    assert "failed" not in found["r1"].data.tags["mlflow.note.content"]


def test_a_torn_journal_stops_no_other(root: Path) -> None:
    toy.write_file(home(root) / "journal/torn/run.json", "{")
    toy.write_file(home(root) / "journal/old/sft-1/events.jsonl", '{"event": "start", "time": 1.0}\n')
    tracking.begin_run(root, "r1", {})
    RunRecord.read(root, "r1").finish({}, "FINISHED")
    tracking.reconcile(root)
    assert [run.info.status for run in runs(root)] == ["FINISHED"]


def test_a_failed_stage_shows_its_reason_though_it_never_began(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    failed = StageResult("collect", "failed", 0.1, "no python", 1)
    ids = tracking.finish_run(root, "r1", {"collect": failed, "sft": StageResult("sft", "skipped")}, "FAILED")
    assert list(ids["stages"]) == ["collect"]
    child, parent = (client(root).get_run(run) for run in (ids["stages"]["collect"], ids["run"]))
    assert (child.info.status, parent.info.status) == ("FAILED", "FAILED")
    assert parent.data.tags["preflow.reason"] == "collect: no python"


def test_a_dead_server_costs_a_line_and_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path) -> None:
        raise ConnectionError("refused by http://me:secret@host")

    with monkeypatch.context() as broken:
        broken.setattr(shipping, "connect", refuse)
        tracking.begin_run(root, "r1", {"name": "kept"})
        toy.run_all(root, "r1")
        for _ in range(3):
            tracking.replay(root, "r1")
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "refused" in said[0]
        assert "secret" not in said[0]
        assert tracking.finish_run(root, "r1", told(), "FINISHED") == {}
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)
    tracking.reconcile(root)
    assert {run.info.status for run in runs(root)} == {"FINISHED"}
    assert len(runs(root)) == 6


def test_nothing_to_ship_imports_no_mlflow(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tasks import tracking; tracking.reconcile(Path('.')); "
        "sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(REPO)})
    assert done.returncode == 0


def test_the_store_is_that_of_the_main_checkout(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    toy.write_file(tree / ".git", f"gitdir: {root}/.git/worktrees/tree\n")
    assert uri_of(tree) == uri_of(root) == f"sqlite:///{root}/mlruns/mlflow.db"


def test_a_database_is_there_only_when_it_is_whole(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (root / "mlruns/mlflow.db").read_bytes()
    path = tmp_path / "new" / "mlflow.db"

    def interrupted(part: Path) -> None:
        part.write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_upgrade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store._make_whole(path)
    assert not path.exists()
    monkeypatch.setattr(store, "_upgrade", lambda part: part.exists() or part.write_bytes(whole))
    store._make_whole(path)
    assert store._is_whole(path)


@pytest.mark.parametrize(("kept", "said"), [(False, "left half made; making it again"), (True, "upgrading")])
def test_a_database_that_is_behind_is_mended(
    root: Path, kept: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "mlruns/mlflow.db"
    if kept:
        whole_run(root)
        connect(root).client._tracking_client.store.engine.dispose()
    whole, upgraded = path.read_bytes(), []

    def upgrade(part: Path) -> None:  # the real one goes through all of MLflow's history, which takes seconds
        upgraded.append(part.exists())
        part.write_bytes(whole)

    with closing(sqlite3.connect(path)) as database, database:
        database.execute("update alembic_version set version_num = 'e5d8a1c9b2f4'")
    monkeypatch.setattr(store, "_upgrade", upgrade)
    store._open.cache_clear()
    assert len(connect(root).client.search_experiments()) == (2 if kept else 1)
    assert upgraded == [kept]  # with runs it is a copy that is upgraded
    assert said in capsys.readouterr().err


def test_of_params_only_words_of_known_names_are_shown() -> None:
    found = params_of({"mine": {"pass": "hunter2", "size": 3}, "rl": {"judge": {"url": "http://t0ken@host/v1"}}})
    assert found == {
        "mine.pass": "[not shown: no parameter of preflow]",
        "mine.size": "3",
        "rl.judge.url": "http://host/v1",
    }


def test_long_params_are_cut_and_nested_ones_flattened() -> None:
    found = params_of({"rl": {"a": {"b": 5e-6}, "algorithm": "x" * 9000}, "none": {}})
    assert found["rl.a.b"] == "5e-06"
    assert len(found["rl.algorithm"]) == MAX_PARAM
    assert found["none"] == "{}"


@pytest.fixture
def by_hand(root: Path) -> tuple[Path, str]:
    """A run that nobody began: journals of stages under a dvc that has gone since."""
    run_id = "dvc-1-1"
    owner = {"owner": {"host": platform.node(), "pid": 1, "started": 1.0}, "command": "dvc repro"}
    whole_run(root, "earlier")
    log = toy.start(root, run_id, "gate", **owner)
    toy.end(log, root, "gate")
    return root, run_id


def test_dvc_by_hand_gets_a_parent_and_its_skipped_stages(by_hand: tuple[Path, str]) -> None:
    root, run_id = by_hand
    tracking.reconcile(root)
    parent = client(root).search_runs(["1"], f"tags.`preflow.run` = '{run_id}' AND tags.`preflow.kind` = 'pipeline'")[0]
    assert (parent.info.run_name, parent.info.status) == ("dvc repro", "FINISHED")
    named = children(root, parent.info.run_id)
    assert set(named) == {"gate", *(f"{stage} (cached)" for stage in toy.STAGES if stage != "gate")}
    assert named["gate"].data.tags["dvc.out.data/13_gate/gate.json"]


def test_a_lock_that_speaks_of_other_bytes_links_nothing(by_hand: tuple[Path, str]) -> None:
    root, run_id = by_hand
    log = toy.start(root, run_id, "gate")
    toy.write_file(root / "data/13_gate/gate.json", '{"promote": false, "candidate": "rl", "checks": []}')
    toy.end(log, root, "gate")  # and dvc was killed before it wrote the lock
    tracking.reconcile(root)
    second = next(run for run in runs(root) if run.info.run_name == "gate (attempt 2)")
    assert "dvc.out.data/13_gate/gate.json" not in second.data.tags
