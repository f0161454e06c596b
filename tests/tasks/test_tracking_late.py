"""A run that MLflow hears of late is told of as it was: the checkout has gone on meanwhile."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.journal import home
from tasks.outcome import StageResult
from tasks.tracking import boundary, shipping
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
        found[title] = (run.info.status, metrics, run.data.params, tags)
    artifacts = root / "mlruns/artifacts" / parent.info.run_id / "artifacts"
    shown = {path.name: path.read_text() for path in artifacts.rglob("*.json") if path.stem in ("samples", "policies")}
    config = {path.name: path.read_text() for path in (artifacts / "config").iterdir()}
    note = parent.data.tags["mlflow.note.content"].partition("### Stages")[0]
    return {"runs": found, "shown": shown, "config": config, "note": note}


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
    facts = json.loads((home(root) / "journal/r1/run.json").read_text())
    facts["owner"]["started"] = 1.0
    (home(root) / "journal/r1/run.json").write_text(json.dumps(facts))
    go_on(root)
    back(away)
    tracking.reconcile(root)
    late = told(root, "r1")
    assert late["runs"]["the run"][0] == "KILLED"
    assert "seed: 0" in late["config"]["params.yaml"] and "  rl:" in late["config"]["dvc.yaml"]
    assert "dvc.lock" not in late["config"] and not late["note"] and not late["runs"]["the run"][3].get("gate.promote")


def test_a_run_that_failed_has_no_verdict_of_the_run_before(root: Path) -> None:
    toy.whole_run(root)
    tracking.begin_run(root, "r2", {"name": "r2"})
    states = {"collect": "cached", "sft": "cached", "rl": "failed", "evaluate": "skipped", "gate": "skipped"}
    reason = "no room:\nof | bytes"
    results = {stage: StageResult(stage, state, 1.0, reason * (state == "failed")) for stage, state in states.items()}
    tracking.finish_run(root, "r2", results, "FAILED")  # type: ignore[arg-type]
    failed = told(root, "r2")
    assert not failed["note"] and "gate.promote" not in failed["runs"]["the run"][3]
    assert "gold_reward/rl" not in failed["runs"]["the run"][1] and "dvc.lock" in failed["config"]
    (parent,) = [run for run in toy.runs(root) if run.info.run_name == "r2"]
    rows = [line for line in parent.data.tags["mlflow.note.content"].splitlines() if line.startswith("| ")]
    assert len(rows) == 6 and any("no room:" in row and "bytes" not in row for row in rows)


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
