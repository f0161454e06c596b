import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batching import collate
from rlhf.errors import PreflowError
from rlhf.models import RewardModel, load_policy
from rlhf.models.ensembles import load_reward_model
from rlhf.records import Row, read_rows, write_rows
from rlhf.reward_report import score_pairs
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as Config
from tasks.journal import Log
from tasks.reward_model import _samples, reward_model
from tests.tasks import tiny

GENERATION = Generation(max_new_tokens=12)
QUICK = {"epochs": 4, "batch_size": 2, "lr": 0.01, "head_lr": 0.02, "max_batch_tokens": 64}
EASY = {"min_accuracy": 0.0, "max_calibration_error": 1.0, "max_length_correlation": 1.0}


def rows(words: list[str], half: str = "", swapped: bool = False) -> list[Row]:
    """People like `yes` better than `no`, or the other way round."""
    chosen, rejected = ("no", "yes") if swapped else ("yes", "no")
    found: list[Row] = [
        {"messages": [{"role": "user", "content": word}], "group": word, "chosen": f"{chosen} {word}", "id": word,
         "rejected": f"{rejected} {word}"}
        for word in words
    ]  # fmt: skip
    return [row | {"half": half} for row in found] if half else found


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


def save_inputs(tmp_path: Path) -> dict[str, Path]:
    """`held_out_rm` is taught the opposite of `policy_rm`."""
    tiny.save_models(tmp_path)
    tiny.save_prompts(tmp_path / "prompts", num_train=60)
    train = [*rows(tiny.WORDS[:6], "policy"), *rows(tiny.WORDS[:6], "held_out", swapped=True)]
    write_rows(tmp_path / "pairs/train.jsonl", train)
    write_rows(tmp_path / "pairs/val.jsonl", rows(tiny.WORDS[6:8]))
    write_rows(tmp_path / "pairs/eval.jsonl", rows(tiny.WORDS[8:], swapped=True))
    return {"policy": tmp_path / "policy", "prompts": tmp_path / "prompts", "pairs": tmp_path / "pairs"}


def run(inputs: dict[str, Path], folder: Path, generation: Generation = GENERATION, **settings: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    reward_model(
        Config.model_validate(QUICK | EASY | settings), generation=generation, seed=0, out=folder / "out",
        scratch=folder, log=Log.null(), **inputs,
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return metrics


def test_each_learns_from_its_half_and_is_judged_on_val(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(inputs, tmp_path / "run", min_accuracy=0.6)
    assert (metrics["measured_on"], metrics["judged_on"]) == ("eval", "val")
    policy_rm, held_out_rm = metrics["policy_rm"], metrics["held_out_rm"]
    assert (policy_rm["train_pairs"], held_out_rm["train_pairs"]) == (6, 6)
    assert (policy_rm["val"]["accuracy"]["mean"], policy_rm["accuracy"]["mean"]) == (1.0, 0.0)
    assert (held_out_rm["val"]["accuracy"]["mean"], held_out_rm["accuracy"]["mean"]) == (0.0, 1.0)
    assert not metrics["trusted"]
    assert metrics["reasons"] == ["accuracy of held_out_rm on val is 0.000, below reward_model.min_accuracy 0.6"]


def test_saved_models_score_as_reported_and_are_normalised_on_fresh_samples(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    metrics = run(inputs, tmp_path / "run")
    assert metrics["trusted"] and metrics["reasons"] == []
    assert {check["check"] for check in metrics["checks"]} == {
        "accuracy", "length_bin_accuracy", "calibration_error", "length_correlation", "padding_gap",
    }  # fmt: skip
    asked = list(read_rows(inputs["prompts"] / "train.jsonl"))
    samples = _samples(GENERATION, load_policy(inputs["policy"]), asked, 0)
    assert 2 <= len(samples) == metrics["normalised_on"] < 60  # the rest was cut off
    for name in ("policy_rm", "held_out_rm"):
        model = RewardModel.load(tmp_path / "run/out" / name)
        alone = [_score(model, prompt, ids) for prompt, ids in samples]
        assert torch.tensor(alone).mean().item() == pytest.approx(0.0, abs=1e-4)
        assert torch.tensor(alone).std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
        scores = score_pairs(model, rows(tiny.WORDS[8:], swapped=True), -2.0, 64)
        assert metrics[name]["sample_mean"] == pytest.approx(0.0, abs=1e-4)
        assert metrics[name]["padding_gap"] < 1e-5
        margin = float((scores[:, 0] - scores[:, 1]).mean())
        assert margin == pytest.approx(metrics[name]["margin_mean"], abs=1e-5)


def test_heads_start_apart(inputs: dict[str, Path], tmp_path: Path) -> None:
    """With the same pairs for both, only the seeds of the heads make them differ."""
    same = rows(tiny.WORDS[:4])
    write_rows(
        inputs["pairs"] / "train.jsonl", [row | {"half": half} for half in ("policy", "held_out") for row in same]
    )
    run(inputs, tmp_path / "run", lr=1e-9, head_lr=1e-9, weight_decay=0.0)
    weights = [RewardModel.load(tmp_path / "run/out" / name).head.weight for name in ("policy_rm", "held_out_rm")]
    assert (weights[0] - weights[1]).abs().max() > 0.01


def test_eval_stands_in_where_val_has_no_pairs(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_rows(inputs["pairs"] / "val.jsonl", [])
    metrics = run(inputs, tmp_path / "run", min_accuracy=0.6, epochs=2)
    assert (metrics["measured_on"], metrics["judged_on"]) == ("eval", "eval")
    assert metrics["reasons"] == ["accuracy of policy_rm on eval is 0.000, below reward_model.min_accuracy 0.6"]
    write_rows(inputs["pairs"] / "eval.jsonl", [])
    with pytest.raises(PreflowError, match=r"0 held-out pairs.*val_share"):
        run(inputs, tmp_path / "none")


def test_an_ensemble_is_trained_saved_and_reported_as_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(inputs, tmp_path / "run", ensemble=2, epochs=1)
    folder = tmp_path / "run/out/policy_rm"
    one, other = (RewardModel.load(folder / "members" / number) for number in "01")
    assert (one.head.weight - other.head.weight).abs().max() > 0.01  # they start apart
    scores = score_pairs(load_reward_model(folder), rows(tiny.WORDS[8:], swapped=True), -2.0, 64)
    assert float((scores[:, 0] - scores[:, 1]).mean()) == pytest.approx(metrics["policy_rm"]["margin_mean"], abs=1e-5)
    assert metrics["policy_rm"]["sample_mean"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["policy_rm"]["sample_std"] == pytest.approx(1.0, abs=1e-4)
    alone = run(inputs, tmp_path / "alone", epochs=1)
    single = RewardModel.load(tmp_path / "alone/out/policy_rm")
    assert torch.equal(one.head.weight, single.head.weight)  # more members leave the first as it was
    assert alone["policy_rm"]["margin_mean"] != metrics["policy_rm"]["margin_mean"]


@pytest.mark.parametrize("how", ["min", "mean_minus_std"])
def test_a_cautious_ensemble_has_mean_0_and_std_1_too(inputs: dict[str, Path], tmp_path: Path, how: str) -> None:
    about = run(inputs, tmp_path / "run", ensemble=3, epochs=1, combine=how)["held_out_rm"]
    assert (about["sample_mean"], about["sample_std"]) == (pytest.approx(0.0, abs=1e-4), pytest.approx(1.0, abs=1e-4))


@pytest.mark.parametrize(
    ("max_batch_tokens", "max_new_tokens", "message"),
    [
        (13, 2, r"all its completions may take 14 tokens .*reward_model\.max_batch_tokens is 13"),
        (50, 54, r"a prompt with its answer may take \d+ tokens .*reward_model\.max_batch_tokens is 50"),
    ],
)
def test_what_does_not_go_into_a_pass_is_said_before_anything_is_sampled(
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_batch_tokens: int,
    max_new_tokens: int,
    message: str,
) -> None:
    monkeypatch.setattr("tasks.reward_model.sample_prompts", None)
    with pytest.raises(PreflowError, match=message):
        run(inputs, tmp_path / "run", Generation(max_new_tokens=max_new_tokens), max_batch_tokens=max_batch_tokens)


def test_margins_are_used_where_pairs_have_them(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"margin_coef is 0\.5 and 0 of 6 pairs of policy_rm have a margin"):
        run(inputs, tmp_path / "none", margin_coef=0.5)
    pairs = list(read_rows(inputs["pairs"] / "train.jsonl"))
    write_rows(inputs["pairs"] / "train.jsonl", [row | {"margin": 6.0} for row in pairs])
    told = run(inputs, tmp_path / "told", margin_coef=1.0, lm_coef=0.0)
    ignored = run(inputs, tmp_path / "ignored", lm_coef=0.0)
    stds = [RewardModel.load(tmp_path / name / "out/policy_rm").std.item() for name in ("told", "ignored")]
    wide, narrow = (
        found["policy_rm"]["val"]["margin_mean"] * std for found, std in zip((told, ignored), stds, strict=True)
    )
    assert wide > narrow  # in the units of training


def test_says_which_knob_where_no_sample_comes_to_an_end(inputs: dict[str, Path], tmp_path: Path) -> None:
    tiny.save_prompts(inputs["prompts"], num_train=1)
    with pytest.raises(PreflowError, match=r"of 1 samples .*generation\.max_new_tokens=12"):
        run(inputs, tmp_path / "run")


def _score(model: RewardModel, prompt: list[int], ids: list[int]) -> float:
    with torch.no_grad():
        score: float = model(collate([([*prompt, *ids], [False] * len(prompt) + [True] * len(ids))], 0)).item()
    return score
