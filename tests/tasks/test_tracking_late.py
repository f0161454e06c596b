"""A run that MLflow hears of late is told of as it was: the checkout has gone on meanwhile."""

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.journal import home
from tasks.outcome import StageResult
from tasks.tracking import boundary, shipping, snapshots
from tasks.tracking.runs import RunRecord

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow, which answers nobody before `undo` is called."""
    broken = pytest.MonkeyPatch()

    def refuse(_: Path) -> None:
        raise ConnectionError("refused")

    broken.setattr(shipping, "connect", refuse)
    yield broken
    broken.undo()


def back(away: pytest.MonkeyPatch) -> None:
    away.undo()
    boundary._quiet_until = 0.0


def told(root: Path, name: str) -> dict[str, Any]:
    """What MLflow has of a run and of its stages, but for what a clock or a place says."""
    (parent,) = [run for run in toy.runs(root) if run.info.run_name == name]
    found = {}
    for run in (parent, *toy.children(root, parent.info.run_id).values()):
        metrics = {key: run.data.metrics[key] for key in run.data.metrics if "second" not in key and "cost" not in key}
        tags = {key: value for key, value in run.data.tags.items() if key.startswith(("gate.", "dvc.", "params."))}
        title = "the run" if run is parent else run.info.run_name
        found[title] = (run.info.status, metrics, run.data.params, tags, lineage(root, run))
    artifacts = root / "mlruns/artifacts" / parent.info.run_id / "artifacts"
    shown = {path.name: path.read_text() for path in artifacts.rglob("*.json") if path.stem in ("samples", "policies")}
    config = {path.name: path.read_text() for path in (artifacts / "config").iterdir()}
    note = parent.data.tags["mlflow.note.content"].partition("### Stages")[0]
    return {"runs": found, "shown": shown, "config": config, "note": note}


def lineage(root: Path, run: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Path and md5 of the data that a run is said to have read, and of the models that it is said to have made."""
    data = [(one.dataset.name, one.dataset.digest) for one in (run.inputs.dataset_inputs if run.inputs else ())]
    ids = [one.model_id for one in (run.outputs.model_outputs if run.outputs else ())]
    models = [toy.client(root).get_logged_model(one).tags for one in ids]
    return sorted(data), sorted((tags["dvc.path"], tags["dvc.md5"]) for tags in models)


def dead(root: Path, name: str) -> None:
    """Have the process of a run be gone."""
    path = home(root) / "journal" / name / "run.json"
    facts = json.loads(path.read_text())
    facts["owner"]["started"] = 1.0
    path.write_text(json.dumps(facts))


def go_on(root: Path) -> None:
    """As a user does: other settings, a graph whose stages have other names, other outputs."""
    toy.run_all(root, "r2", gold=0.9)
    for name, old, new in (("dvc.yaml", "  rl:", "  rl_again:"), ("params.yaml", "seed: 0", "seed: 7")):
        (root / name).write_text((root / name).read_text().replace(old, new))


def one(root: Path, name: str) -> None:
    tracking.announce(root, name, {"name": name})
    toy.run_all(root, name)
    tracking.finish_run(root, name, toy.told(), "FINISHED")


def test_a_run_is_told_late_as_it_ended(root: Path, away: pytest.MonkeyPatch) -> None:
    one(root, "r1")
    go_on(root)
    back(away)
    tracking.reconcile(root)
    late = told(root, "r1")
    journal = home(root) / "journal/r1"
    assert (journal / "shipped").exists() and not (journal / "begun").exists() and not (journal / "ended").exists()
    toy.write_tree(root)
    one(root, "r3")
    assert told(root, "r3") == late
    assert late["runs"]["the run"][1]["gold_reward/rl"] == 0.5
    assert "seed: 0" in late["config"]["params.yaml"] and "dvc.lock" in late["config"]


def test_a_run_that_died_is_told_by_what_it_was_to_do(root: Path, away: pytest.MonkeyPatch) -> None:
    """Of its outputs nothing is known: those that are there are of the run after it."""
    tracking.announce(root, "r1", {"name": "r1"})
    toy.end(toy.start(root, "r1", "collect"), root, "collect")
    dead(root, "r1")
    go_on(root)
    back(away)
    tracking.reconcile(root)
    late = told(root, "r1")
    assert late["runs"]["the run"][0] == "KILLED"
    assert "seed: 0" in late["config"]["params.yaml"] and "  rl:" in late["config"]["dvc.yaml"]
    assert not late["note"] and not late["runs"]["the run"][3].get("gate.promote")
    assert late["runs"]["the run"][4][1] == []  # models of the run after it


def test_a_run_whose_worktree_is_gone_is_told_whole(root: Path, away: pytest.MonkeyPatch) -> None:
    """One that has ended; of one that has died, what it was to do."""
    for name in ("r1", "r2"):
        tree = toy.write_tree(root / "worktrees" / name)
        tracking.announce(root, name, {"name": name, "tree": str(tree)})
        for stage in toy.STAGES:
            log = toy.start(root, name, stage)
            toy.make_outputs(tree, stage)
            toy.end(log, tree, stage)
        toy.lock_everything(tree)
    tracking.finish_run(root, "r1", toy.told(), "FINISHED")
    dead(root, "r2")
    shutil.rmtree(root / "worktrees")
    back(away)
    tracking.reconcile(root)
    ended, died = (told(root, name) for name in ("r1", "r2"))
    assert ended["runs"]["the run"][1]["gold_reward/rl"] == 0.5 and ended["shown"] and "★" in ended["note"]
    assert [path for path, _ in ended["runs"]["the run"][4][1]] == ["data/05_sft/policy", "data/10_rl/policy"]
    assert died["runs"]["the run"][0] == "KILLED" and set(died["config"]) == {"params.yaml", "dvc.yaml"}
    assert died["runs"]["rl"][0] == "FINISHED" and not died["note"]


def test_where_there_is_no_room_a_run_has_its_end_all_the_same(
    root: Path, away: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told by the checkout, as far as the lock there speaks of what it wrote."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as crowded:
        crowded.setattr(snapshots, "_copy", full)
        one(root, "r1")
    journal = home(root) / "journal/r1"
    assert (journal / "finish.json").exists()
    assert [path.name for path in journal.iterdir() if path.name.strip(".") in ("begun", "ended")] == []
    rl = (root / "data/10_rl/policy/model.safetensors").read_text()
    go_on(root)
    assert (root / "data/10_rl/policy/model.safetensors").read_text() != rl
    back(away)
    tracking.reconcile(root)
    late = told(root, "r1")
    assert late["runs"]["the run"][0] == "FINISHED" and "gold_reward/rl" not in late["runs"]["the run"][1]
    assert "data/10_rl/policy" not in dict(late["runs"]["the run"][4][1])


def test_a_path_that_leads_out_of_the_project_is_not_copied(root: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside/policy"
    aside.mkdir(parents=True)
    (aside / "weights.safetensors").write_text("of somebody")
    graph = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(graph.replace("outs: [data/10_rl/policy]", f"outs: [{aside}]"))
    toy.lock(root, {"rl": {"deps": [], "params": {}, "outs": [str(aside)]}})
    snapshots.keep_end(root, home(root) / "journal/r1/ended", ["rl"])
    assert (home(root) / "journal/r1/ended/dvc.lock").exists()
    assert [path.name for path in aside.iterdir()] == ["weights.safetensors"]


def test_a_run_that_failed_has_no_verdict_of_the_run_before(root: Path) -> None:
    toy.whole_run(root)
    tracking.begin_run(root, "r2", {"name": "r2"})
    states = {"collect": "cached", "sft": "cached", "rl": "failed", "evaluate": "skipped", "gate": "skipped"}
    reason = "no room:\nof | bytes" + "\n  " * 9 + "x" * 1000
    results = {stage: StageResult(stage, state, 1.0, reason * (state == "failed")) for stage, state in states.items()}
    tracking.finish_run(root, "r2", results, "FAILED")  # type: ignore[arg-type]
    failed = told(root, "r2")
    assert not failed["note"] and "gate.promote" not in failed["runs"]["the run"][3]
    assert "gold_reward/rl" not in failed["runs"]["the run"][1] and "dvc.lock" in failed["config"]
    (parent,) = [run for run in toy.runs(root) if run.info.run_name == "r2"]
    rows = [line for line in parent.data.tags["mlflow.note.content"].splitlines() if line.startswith("| ")]
    assert len(rows) == 6 and any("no room: of \\| bytes xxx" in row and len(row) < 850 for row in rows)


def test_an_answer_may_have_any_line_break(root: Path) -> None:
    """U+2028 and its like end no line of JSON, which is all that ends a row."""
    for name in ("r1", "r2"):
        tracking.begin_run(root, name, {"name": name})
        toy.run_all(root, name)
        path = root / "data/12_evaluation/completions/rl.jsonl"
        row = json.loads(path.read_text())
        row["completions"][0]["text"] = "blue\u2028or\x85red"
        path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
        if name == "r2":  # as older journals end, and those for which there was no room
            RunRecord.read(root, name).finish({stage: {"state": "ran"} for stage in toy.STAGES}, "FINISHED")
            tracking.reconcile(root)
        else:
            tracking.finish_run(root, name, toy.told(), "FINISHED")
        assert "blue\\u2028or\\u0085red" in told(root, name)["shown"]["samples.json"]
