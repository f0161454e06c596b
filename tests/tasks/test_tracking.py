"""Journals into MLflow, on a toy pipeline and a database in a temporary folder."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks import tracking
from tasks.journal import home
from tasks.outcome import StageResult
from tasks.tracking import boundary, shipping
from tasks.tracking.runs import RunRecord, write_json_atomically
from tasks.tracking.store import uri_of
from tasks.tracking.values import MAX_PARAM, params_of

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


def test_a_run_becomes_a_parent_with_one_child_a_stage(root: Path) -> None:
    ids = toy.whole_run(root)
    assert list(ids["stages"]) == list(toy.STAGES)
    parent = toy.client(root).get_run(ids["run"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sft.lr"] == "0.001"
    assert parent.data.metrics["gold_reward/rl"] == 0.5
    assert parent.data.metrics["gate/promote"] == 1.0
    assert parent.data.tags["git.ref"] == "refs/preflow/r1"
    assert parent.data.tags["versions.mlflow"]
    assert "| **rl** ★&emsp; | 0.50 ± 0.10" in parent.data.tags["mlflow.note.content"]
    named = toy.children(root, ids["run"])
    assert set(named) == set(toy.STAGES)
    rl = named["rl"]
    assert (rl.info.status, rl.data.params["rl.lr"], rl.data.tags["system.device"]) == ("FINISHED", "0.001", "cpu")
    assert rl.data.metrics["final/val.loss"] == 0.5
    history = toy.client(root).get_metric_history(rl.info.run_id, "rl/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_stages_say_what_they_cost_and_the_run_what_they_cost_together(root: Path) -> None:
    """A second of their own each, and half a second around it."""
    ids = toy.whole_run(root)
    rl = toy.children(root, ids["run"])["rl"].data.metrics
    assert (rl["cost/seconds"], rl["cost/seconds_train"], rl["cost/seconds_orchestration"]) == (1.5, 0.25, 0.5)
    assert (rl["cost/flops"], rl["cost/tokens_trained"], rl["cost/matmul_share"]) == (2e9, 300.0, 0.4)
    parent = toy.client(root).get_run(ids["run"]).data.metrics
    assert (parent["cost/seconds"], parent["cost/flops"], parent["cost/tokens_processed"]) == (7.5, 1e10, 2000.0)
    tracking.begin_run(root, "r2", {})
    again = tracking.finish_run(root, "r2", toy.told("cached"), "FINISHED")
    cached = toy.children(root, again["run"])["rl (cached)"].data.metrics
    assert (cached["cost/flops"], cached["cost_then/flops"], cached["cost_then/seconds"]) == (0.0, 2e9, 1.5)
    assert "cost/matmul_share" not in cached and cached["cost_then/matmul_share"] == 0.4
    assert toy.client(root).get_run(again["run"]).data.metrics["cost/seconds"] == 0.0


def test_tables_are_those_of_mlflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = toy.whole_run(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(root))
    samples = toy.client(root).load_table(ids["experiment"], "samples.json", run_ids=[ids["run"]])
    rows = [
        {"prompt": "Name a colour.", "policy": name, "completion": f"blue, says {name}", "gold_reward": worth}
        for name, worth in (("sft", pytest.approx(0.3)), ("rl", 0.5))
    ]
    assert samples[list(rows[0])].to_dict("records") == rows


def test_secrets_stay_out(root: Path) -> None:
    ids = toy.whole_run(root)
    parent = toy.client(root).get_run(ids["run"])
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
    rl = [run for run in toy.runs(root) if run.info.run_name == "rl"]
    assert len(rl) == 1
    points = toy.client(root).get_metric_history(rl[0].info.run_id, "rl/loss")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 0.5)]
    assert len(toy.client(root).get_metric_history(rl[0].info.run_id, "rl/kl")) == 2


def test_a_crash_after_a_run_was_made_finds_it_again(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    toy.start(root, "r1", "sft")
    tracking.replay(root, "r1")
    (RunRecord.read(root, "r1").folder / "mlflow.json").unlink()
    tracking.replay(root, "r1")
    assert len(toy.runs(root)) == 2


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
    run = next(run for run in toy.runs(root) if run.info.run_name == "sft")
    points = toy.client(root).get_metric_history(run.info.run_id, "sft/loss")
    assert {point.step: point.value for point in points} == {0: 1.0, 1: 0.5}


def test_more_points_than_one_call_takes(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    log = toy.start(root, "r1", "rl")
    for step in range(1234):
        log({"rl/loss": float(step)}, step)
    tracking.replay(root, "r1")
    run = next(run for run in toy.runs(root) if run.info.run_name == "rl")
    assert len(toy.client(root).get_metric_history(run.info.run_id, "rl/loss")) == 1234


def test_cached_stages_are_light_runs_with_full_lineage(root: Path) -> None:
    first = toy.whole_run(root)
    tracking.begin_run(root, "r2", {"name": "again"})
    second = tracking.finish_run(root, "r2", toy.told("cached"), "FINISHED")
    made, light = (toy.client(root).get_run(ids["stages"]["rl"]) for ids in (first, second))
    assert light.info.run_name == "rl (cached)"
    assert (light.data.tags["cached"], light.data.tags["cached_from"]) == ("true", made.info.run_id)
    assert light.data.metrics["final/val.loss"] == 0.5
    assert light.data.params["rl.kl_coef"] == "0.1"
    assert [output.model_id for output in light.outputs.model_outputs] == [
        output.model_id for output in made.outputs.model_outputs
    ]
    assert len(toy.client(root).search_logged_models(["1"])) == 2
    assert toy.client(root).get_run(second["run"]).data.metrics["gold_reward/rl"] == 0.5


def test_a_failed_stage_shows_its_reason_though_it_never_began(root: Path) -> None:
    tracking.begin_run(root, "r1", {})
    failed = StageResult("collect", "failed", 0.1, "no python", 1)
    ids = tracking.finish_run(root, "r1", {"collect": failed, "sft": StageResult("sft", "skipped")}, "FAILED")
    assert list(ids["stages"]) == ["collect"]
    child, parent = (toy.client(root).get_run(run) for run in (ids["stages"]["collect"], ids["run"]))
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
        assert tracking.finish_run(root, "r1", toy.told(), "FINISHED") == {}
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)
    tracking.reconcile(root)
    assert {run.info.status for run in toy.runs(root)} == {"FINISHED"}
    assert len(toy.runs(root)) == 6


def test_nothing_to_ship_imports_no_mlflow(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tasks import tracking; tracking.reconcile(Path('.')); "
        "sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(REPO)})
    assert done.returncode == 0


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
