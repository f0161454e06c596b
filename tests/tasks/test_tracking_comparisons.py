"""Comparisons in MLflow: one parent, each cell below it once, whenever MLflow listens."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.outcome import StageResult
from tasks.tracking import boundary, comparisons, shipping
from tasks.tracking.runs import RunRecord
from tasks.tracking.store import connect

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

ABOUT = {"name": "leash", "command": "preflow compare", "registry": "policy", "commit": "abc", "params": {"seeds": "0"}}


def run_cell(root: Path, run: str, comparison: str) -> None:
    tracking.announce(root, run, {"name": run, "comparison": comparison})
    toy.run_all(root, run, 0.5)
    told = {stage: StageResult(stage, "ran", 1.5) for stage in toy.STAGES}
    tracking.finish_run(root, run, told, "FINISHED")


def told(root: Path, *runs: str, gold: float = 0.5) -> dict[str, Any]:
    (root / "table.md").write_text(f"| ppo | {gold} |\n")
    cells = [{"key": f"key-{run}", "name": f"ppo {run}", "run": run, "metrics": {"gold_reward": gold}} for run in runs]
    return {
        "status": "FINISHED", "note": f"| ppo | {gold} |", "metrics": {"gold_reward/ppo": gold},
        "table": [{"name": "ppo seed 0", "gold_reward": gold}], "files": [str(root / "table.md")], "cells": cells,
    }  # fmt: skip


def comparison(root: Path) -> Any:
    (found,) = runs(root, "tags.`preflow.kind` = 'comparison'")
    return found


def runs(root: Path, query: str) -> list[Any]:
    return list(connect(root).client.search_runs(["1"], query))


def below(root: Path, parent: Any) -> list[str]:
    return sorted(run.info.run_name for run in runs(root, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"))


def test_cells_are_nested_below_the_comparison_while_it_runs_and_told_once(root: Path) -> None:
    tracking.begin_comparison(root, "c1", ABOUT)
    assert comparison(root).info.status == "RUNNING"
    run_cell(root, "r1", "c1")
    assert below(root, comparison(root)) == ["r1"]
    for _ in range(2):
        tracking.finish_comparison(root, "c1", told(root, "r1"))
    found = comparison(root)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "compare leash")
    assert (found.data.params, found.data.metrics) == ({"seeds": "0"}, {"gold_reward/ppo": 0.5})
    assert found.data.tags["mlflow.note.content"] == "| ppo | 0.5 |"
    artifacts = {item.path for item in connect(root).client.list_artifacts(found.info.run_id)}
    assert artifacts == {"table.md", "cells.json"}
    assert below(root, found) == ["r1"]
    assert comparisons.waiting(root) == []


def test_what_is_told_twice_does_not_open_mlflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.begin_comparison(root, "c1", ABOUT)
    run_cell(root, "r1", "c1")
    tracking.finish_comparison(root, "c1", told(root, "r1"))
    monkeypatch.setattr(comparisons, "connect", lambda root: pytest.fail("asked MLflow"))
    tracking.finish_comparison(root, "c1", told(root, "r1"))


def test_a_later_look_at_more_cells_goes_into_the_same_run(root: Path) -> None:
    tracking.begin_comparison(root, "c1", ABOUT)
    run_cell(root, "r1", "c1")
    tracking.finish_comparison(root, "c1", told(root, "r1") | {"status": "FAILED"})
    assert comparison(root).info.status == "FAILED"
    tracking.begin_comparison(root, "c1", ABOUT)
    assert comparison(root).info.status == "RUNNING"
    run_cell(root, "r2", "c1")
    tracking.finish_comparison(root, "c1", told(root, "r1", "r2", gold=0.6))
    assert below(root, comparison(root)) == ["r1", "r2"]
    assert comparison(root).data.metrics["gold_reward/ppo"] == 0.6


def test_a_cell_that_another_comparison_ran_is_stood_for_by_a_light_run(root: Path) -> None:
    tracking.begin_comparison(root, "c1", ABOUT)
    run_cell(root, "r1", "c1")
    tracking.finish_comparison(root, "c1", told(root, "r1"))
    comparisons.begin(root, "c2", ABOUT | {"name": "wider"})
    tracking.finish_comparison(root, "c2", told(root, "r1", gold=0.7))
    tracking.finish_comparison(root, "c2", told(root, "r1", gold=0.8))
    first, second = sorted(runs(root, "tags.`preflow.kind` = 'comparison'"), key=lambda run: str(run.info.run_name))
    assert below(root, first) == ["r1"]
    assert below(root, second) == ["ppo r1 (cached)"]
    (light,) = runs(root, f"tags.`mlflow.parentRunId` = '{second.info.run_id}'")
    (origin,) = runs(root, f"tags.`mlflow.parentRunId` = '{first.info.run_id}'")
    assert light.data.tags["cached_from"] == origin.info.run_id
    assert light.data.metrics == {"gold_reward": 0.7}


def test_what_mlflow_did_not_hear_is_told_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(root: Path) -> Any:
        raise ConnectionError("nobody answers")

    with monkeypatch.context() as down:
        for module in (comparisons, shipping):
            down.setattr(module, "connect", away)
        tracking.begin_comparison(root, "c1", ABOUT)
        run_cell(root, "r1", "c1")
        tracking.finish_comparison(root, "c1", told(root, "r1"))
    assert comparisons.waiting(root) == ["c1"]
    monkeypatch.setattr(boundary, "_quiet_until", 0.0)  # as in the next command
    tracking.reconcile(root)
    assert below(root, comparison(root)) == ["r1"]
    assert comparison(root).info.status == "FINISHED"
    assert comparisons.waiting(root) == []


def test_a_broken_record_is_in_nobodys_way(root: Path) -> None:
    assert not comparisons.has_begun(root, "c1")
    tracking.begin_comparison(root, "c1", ABOUT)
    assert comparisons.has_begun(root, "c1")
    for text in ("", "{", "[]", "{}", '{"owner": 1}'):
        (comparisons.place(root, "c1") / "comparison.json").write_text(text)
        assert (comparisons.waiting(root), comparisons.has_begun(root, "c1")) == ([], False)
    run_cell(root, "r1", "c1")
    assert [run.info.run_name for run in runs(root, "tags.`preflow.kind` = 'pipeline'")] == ["r1"]


def test_a_comparison_that_was_killed_is_closed_and_goes_on_in_the_same_run(root: Path) -> None:
    program = "from pathlib import Path; from tasks.tracking import comparisons; "
    program += f"comparisons.begin(Path({str(root)!r}), 'c1', {ABOUT!r})"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environ)
    assert comparisons.waiting(root) == ["c1"]
    tracking.reconcile(root)
    assert comparison(root).info.status == "KILLED"
    tracking.begin_comparison(root, "c1", ABOUT)
    assert comparisons.waiting(root) == []  # it is alive
    run_cell(root, "r1", "c1")
    tracking.finish_comparison(root, "c1", told(root, "r1"))
    assert comparison(root).info.status == "FINISHED"
    assert RunRecord.read(root, "r1").info["comparison"] == "c1"


def test_rows_of_any_name_are_told(root: Path) -> None:
    """MLflow takes names of 250 letters; two settings that begin alike stay two numbers."""
    tracking.begin_comparison(root, "c1", ABOUT)
    long = "gain_over_sft/ppo rl.rewards." + "verifier " * 40
    tracking.finish_comparison(root, "c1", told(root) | {"metrics": {f"{long}1": 1.0, f"{long}2": 2.0, "short": 3.0}})
    found = comparison(root).data.metrics
    assert found.pop("short") == 3.0 and sorted(found.values()) == [1.0, 2.0]
    assert all(name.startswith(long[:200]) and len(name) == 250 for name in found)
    assert comparisons.waiting(root) == []
