"""`preflow plan --exact`: what the stages' own first steps keep, beside the formulas and beside a real step."""

import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.plan.exact import _impossible
from rlhf.sizes import How
from tasks import first_step
from tests.flows.test_plan import by_stage, planned, project

__all__ = ["project"]
SMALL = {
    "base.hidden_size": 64, "base.num_layers": 3, "base.num_heads": 4, "base.intermediate_size": 192,
    "sft.batch_size": 16, "reward_model.batch_size": 8, "dpo.batch_size": 8,
    "algorithms.grpo.prompts_per_update": 4, "algorithms.ppo.prompts_per_update": 16, "generation.max_new_tokens": 24,
}  # fmt: skip


def words(*further: str, gpu: bool = True) -> list[str]:
    settings = [f"{key}={value}" for key, value in SMALL.items()] + list(further)
    return [*(word for one in settings for word in ("--set", one)), *(("--gpu", "24GB") if gpu else ())]


@cache
def counted(*further: str, gpu: bool = True) -> dict[str, dict[str, Any]]:
    """The same for every test, whose projects are alike."""
    return by_stage(planned("--exact", *words(*further, gpu=gpu)))


def ratio(line: dict[str, Any]) -> float:
    exact = line["exact"]
    assert not exact["why"], exact["why"]
    return float(sum(exact["terms"].values()) / exact["formula"])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("training.dtype=bfloat16", "training.gradient_checkpointing=true", "rl.algorithm=grpo"),
        ("training.method=lora", "training.rank=4"),
    ],
    ids=["full", "bfloat16-recomputed-grpo", "lora"],
)
def test_it_agrees_with_the_formulas(settings: tuple[str, ...]) -> None:
    """Of a GPU within a sixth, on models so small that what no formula has, heads and masks, shows."""
    lines = counted(*settings)
    trains = ("sft", "reward_model", "dpo", "rejection_sampling", "rl")
    assert {name: ratio(lines[name]) for name in trains} == pytest.approx(dict.fromkeys(trains, 1.0), abs=1 / 6)
    assert lines["annotate"]["exact"] is None


@pytest.mark.usefixtures("project")
def test_weights_and_moments_are_those_of_the_formulas_to_the_byte() -> None:
    """But for what the formulas leave out: cosines, and the number of steps that AdamW keeps of every tensor."""
    sft = counted()["sft"]["exact"]["terms"]
    known = by_stage(planned(*words()))
    said = known["sft"]["terms"]
    assert sft["weights"] - said["weights"] == 2 * 4 * (64 // 4 // 2)
    assert sft["moments"] == said["moments"]


@pytest.mark.usefixtures("project")
def test_on_a_processor_the_heap_counts() -> None:
    assert 0.8 < ratio(counted(gpu=False)["sft"]) < 1.25


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("training.method=qlora", "qlora: bitsandbytes"),
        ("training.optimizer=adamw_8bit", "adamw_8bit: bitsandbytes"),
    ],
)
def test_what_cannot_be_run_says_so_and_keeps_the_formula(setting: str, why: str) -> None:
    lines = counted(setting)
    assert why in lines["sft"]["exact"]["why"] and lines["sft"]["exact"]["terms"] is None
    assert lines["sft"]["exact"]["formula"] == sum(lines["sft"]["terms"].values())


def test_divided_blocks_are_not_run() -> None:
    assert "8 processes" in _impossible(How(shards=8))


@pytest.mark.usefixtures("project")
def test_trouble_is_named_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(*_: Any) -> None:
        raise RuntimeError("reads its data\nat length")

    monkeypatch.setattr(first_step, "kept", trouble)
    ended = CliRunner().invoke(app, ["plan", "--exact", *words()], catch_exceptions=False)
    assert "rl was not counted, its peak is the formulas': RuntimeError: reads its data\n" in ended.stdout
    assert "rl: first step on weights without data, 6 of 6" in ended.stderr


def test_a_plan_without_it_imports_no_torch() -> None:
    program = "import sys, flows.plan.plan, flows.plan.exact, flows.plan.show; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
