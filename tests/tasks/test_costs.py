"""What stages cost, from journals: those that ran, those that were cached, and what is not known."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.spending import ACCOUNT
from tasks import owners, spending
from tasks.costs import KINDS, costs_of, total
from tasks.journal import home
from tasks.lineage import read_tree
from tasks.tracking.runs import begin, write_json_atomically

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    return toy.write_tree(tmp_path)


def told(state: str, seconds: float) -> dict[str, dict[str, Any]]:
    return {stage: {"state": state, "seconds": seconds} for stage in toy.STAGES}


def run(root: Path, run_id: str = "r1", seconds: float = 1.5) -> None:
    begin(root, run_id, {}, owners.this_process())
    toy.run_all(root, run_id)
    results = told("ran", seconds)
    write_json_atomically(home(root) / "journal" / run_id / "finish.json", {"results": results})


def test_the_parts_of_a_stage_add_up_to_what_the_flow_waited(root: Path) -> None:
    """Half a second in models: 2e9 FLOPs of the 5e9 that the machine does in that time; 400 tokens in its second."""
    run(root)
    costs = costs_of(root, "r1", read_tree(root), told("ran", 1.5))
    assert list(costs) == list(toy.STAGES)
    rl = costs["rl"]
    assert (rl["seconds"], rl["seconds_orchestration"]) == (1.5, 0.5)
    assert sum(rl[f"seconds_{kind}"] for kind in KINDS) == rl["seconds"]
    assert (rl["matmul_share"], rl["tokens_per_second"]) == (0.4, 400.0)


def test_a_cached_stage_costs_nothing_and_says_what_it_cost_when_it_ran(root: Path) -> None:
    run(root)
    results = told("cached", 0.0) | {"gate": {"state": "ran", "seconds": 2.0}}
    log = toy.start(root, "r2", "gate")
    toy.end(log, root, "gate")
    costs = costs_of(root, "r2", read_tree(root), results)
    assert (costs["rl"]["seconds"], costs["gate"]["seconds"]) == (1.5, 2.0)
    summed = total(costs, results)
    assert (summed["seconds"], summed["seconds_train"], summed["flops"]) == (2.0, 0.25, 2e9)


def test_the_cost_of_other_bytes_is_not_told(root: Path) -> None:
    run(root)
    toy.make_outputs(root, "sft", gold=0.9)
    toy.lock_everything(root)
    costs = costs_of(root, "r2", read_tree(root), told("cached", 0.0))
    assert "sft" not in costs and "rl" in costs


def test_a_stage_that_was_killed_said_nothing(root: Path) -> None:
    run(root)
    toy.start(root, "r2", "rl")
    results = {"rl": {"state": "failed", "seconds": 3.0}, "gate": {"state": "skipped", "seconds": 0.0}}
    assert costs_of(root, "r2", read_tree(root), results) == {}


@pytest.mark.parametrize("cost", ["", "much", {"seconds_train": "long"}])
@pytest.mark.parametrize("state", ["ran", "cached"])
def test_a_damaged_record_tells_nothing_and_the_others_all(root: Path, cost: object, state: str) -> None:
    run(root)
    journals = home(root) / "journal" / "r1"
    end = {"event": "end", "cost": cost, "outs": []} if cost else []
    (journals / "sft-1" / "events.jsonl").write_text(f"{json.dumps(end)}\n")
    (journals / "rl-1" / "events.jsonl").unlink()
    (journals / "rl-1" / "events.jsonl").mkdir()
    (journals / "finish.json").write_text("[]")
    costs = costs_of(root, "r1", read_tree(root), told(state, 1.5))
    assert set(costs) == {"collect", "evaluate", "gate"} and costs["gate"]["flops"] == 2e9


def test_a_mistake_of_ours_is_not_taken_for_a_damaged_record(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root)
    monkeypatch.setattr("tasks.costs.matches", lambda tree, stage: True)
    with pytest.raises(TypeError):
        costs_of(root, "r2", read_tree(root), told("cached", 0.0))


def test_a_run_by_hand_has_no_orchestration(root: Path) -> None:
    run(root)
    (home(root) / "journal" / "r1" / "finish.json").unlink()
    cost = costs_of(root, "r2", read_tree(root), told("cached", 0.0))["rl"]
    assert cost["seconds"] == 1.0 and "seconds_orchestration" not in cost


def test_a_machine_that_was_busy_is_measured_again_and_its_best_counts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(root).mkdir()
    busy = spending.matmul_rate(home(root), "float32")
    assert busy > 0
    rates = iter([2 * busy, busy, 1.5 * busy, busy, 0.5 * busy, 0.25 * busy])
    monkeypatch.setattr(spending, "_measured", lambda *_: next(rates))
    assert [spending.matmul_rate(home(root), "float32") for _ in range(2)] == [2 * busy, 2 * busy]
    assert spending.matmul_rate(home(root), "bfloat16") == 1.5 * busy  # another precision has a rate of its own
    assert spending.matmul_rate(home(root), "float32") == 2 * busy
    for wrong, measured in (("{ torn", 0.5 * busy), ("[]", 0.25 * busy)):
        (home(root) / "matmul.json").write_text(wrong)
        assert spending.matmul_rate(home(root), "float32") == measured


def test_a_rate_that_cannot_be_kept_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home(root) / "matmul.json").mkdir(parents=True)  # as on a full disk it is not written
    monkeypatch.setitem(ACCOUNT.counts, "flops", 1.0)
    monkeypatch.setattr(ACCOUNT, "precision", "float32")
    found = spending.figures(home(root))
    assert found["flops"] == 1.0 and "matmul_rate" not in found


def test_without_models_no_machine_is_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCOUNT.counts, "flops", 0.0)
    assert "matmul_rate" not in spending.figures(home(root))
    assert not (home(root) / "matmul.json").exists()
