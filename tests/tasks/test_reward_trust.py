"""A reward model that learnt the wrong thing is refused, and the failing check is named."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batching import Batch
from rlhf.errors import PreflowError
from rlhf.records import Row, write_rows
from rlhf.reward_report import padding_gap
from tasks.config.algorithms.on_policy import Reinforce
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as Config
from tasks.config.rl import Rl
from tasks.journal import Log
from tasks.reward_checks import checks, reason
from tasks.reward_figures import breakdown
from tasks.reward_model import reward_model
from tasks.rl import rl
from tests.tasks import tiny

GENERATION = Generation(max_new_tokens=12)
GOOD = set(tiny.WORDS[:5])
Label = Callable[[str, str, random.Random], bool]


def better(one: str, other: str, rng: random.Random) -> bool:
    """What people like: words of the good half, at any length."""
    return worth(one) > worth(other)


def worth(text: str) -> int:
    return sum(1 if word in GOOD else -1 for word in text.split())


def shuffled(one: str, other: str, rng: random.Random) -> bool:
    return rng.random() < 0.5


def longer(one: str, other: str, rng: random.Random) -> bool:
    return len(one.split()) > len(other.split())


def pairs(label: Label, count: int, seed: int, half: str = "") -> list[Row]:
    rng = random.Random(seed)
    rows: list[Row] = []
    while len(rows) < count:
        one, other = (" ".join(rng.choices(tiny.WORDS, k=rng.randint(1, 6))) for _ in range(2))
        if worth(one) == worth(other) or len(one.split()) == len(other.split()):
            continue
        chosen, rejected = (one, other) if label(one, other, rng) else (other, one)
        name = f"{seed}-{len(rows)}"
        content = " ".join(rng.choices(tiny.WORDS, k=3))
        row = {"messages": [{"role": "user", "content": content}], "group": name, "id": name, "annotator": "ann"}
        rows.append(row | {"chosen": chosen, "rejected": rejected} | ({"half": half} if half else {}))
    return rows


def trained(folder: Path, label: Label, log: Log) -> dict[str, Any]:
    """Stage `reward_model` on pairs labelled so; held-out pairs always say what people like."""
    tiny.save_models(folder)
    tiny.save_prompts(folder / "prompts", num_train=60)
    train = [*pairs(label, 160, 1, "policy"), *pairs(label, 160, 2, "held_out")]
    write_rows(folder / "pairs/train.jsonl", train)
    for seed, split in ((3, "val"), (4, "eval")):
        write_rows(folder / f"pairs/{split}.jsonl", pairs(better, 150, seed))
    (folder / "rm").mkdir()
    reward_model(
        Config(epochs=2, lr=0.01, head_lr=0.02), generation=GENERATION, seed=0, policy=folder / "policy",
        prompts=folder / "prompts", pairs=folder / "pairs", out=folder / "rm", scratch=folder / "x", log=log,
    )  # fmt: skip
    return {
        "policy": folder / "policy", "reference": folder / "policy", "prompts": folder / "prompts",
        "reward_model": folder / "rm/policy_rm", "held_out": folder / "rm/held_out_rm",
        "reward_metrics": folder / "rm/metrics.json",
    }  # fmt: skip


def learn(folder: Path, inputs: dict[str, Any]) -> None:
    for name in ("rl", "y"):
        (folder / name).mkdir()
    rl(
        Rl(algorithm="reinforce", num_updates=1, num_val_prompts=4), generation=GENERATION,
        algorithm=Reinforce(prompts_per_update=2, group_size=2), seed=0, out=folder / "rl", scratch=folder / "y",
        log=Log.null(), **inputs,
    )  # fmt: skip


def test_what_people_like_is_trusted_and_shown(tmp_path: Path) -> None:
    learn(tmp_path, trained(tmp_path, better, Log(tmp_path / "log", "reward_model")))
    assert (tmp_path / "rl/policy").is_dir()
    shown = {path.name for path in (tmp_path / "log/files").iterdir()}
    assert {"trust_checks.json", "trust_policy_rm.json", "trust_policy_rm.png", "trust_held_out_rm.png"} <= shown


@pytest.mark.faults(
    45,
    injected="a reward model trained on shuffled labels, or on length alone",
    happens="its checks fail by name, RL refuses it",
)
@pytest.mark.parametrize(
    ("label", "named"),
    [(shuffled, ["accuracy of policy_rm"]), (longer, ["length_bin_accuracy of policy_rm", "length_correlation of"])],
    ids=["shuffled labels", "length alone"],
)
def test_what_learnt_the_wrong_thing_is_refused_by_name(label: Label, named: list[str], tmp_path: Path) -> None:
    inputs = trained(tmp_path, label, Log.null())
    with pytest.raises(PreflowError, match=r"failed its own checks .*rl\.allow_untrusted") as caught:
        learn(tmp_path, inputs)
    assert all(name in str(caught.value) for name in named), caught.value
    assert not (tmp_path / "rl/policy").exists()


MEASURED: dict[str, Any] = {
    "accuracy": {"mean": 0.7},
    "by_length": {"chosen_longer": {"accuracy": 0.6, "pairs": 80}, "chosen_shorter": {"accuracy": 0.4, "pairs": 49}},
    "calibration_error": 0.1,
    "length_correlation": -0.5,
    "padding_gap": 0.0,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"accuracy": {"mean": 0.5}}, "accuracy of rm on val is 0.500, below reward_model.min_accuracy 0.6"),
        (
            {"by_length": {"chosen_shorter": {"accuracy": 0.4, "pairs": 50}}},
            "length_bin_accuracy of rm on val is 0.400, below reward_model.min_length_bin_accuracy 0.5",
        ),
        (
            {"calibration_error": 0.2},
            "calibration_error of rm on val is 0.200, above reward_model.max_calibration_error 0.15",
        ),
        (
            {"length_correlation": -0.7},
            "length_correlation of rm on val is 0.700, above reward_model.max_length_correlation 0.6",
        ),
        ({"padding_gap": 0.003}, "padding_gap of rm on val is 0.003, above reward_model.max_padding_gap 0.0001"),
    ],
)
def test_a_failed_check_says_name_number_limit_and_knob(change: dict[str, Any], sentence: str) -> None:
    assert all(check["passed"] for check in checks(Config(), "rm", MEASURED, "val"))
    failed = [check for check in checks(Config(), "rm", MEASURED | change, "val") if not check["passed"]]
    assert [reason(check) for check in failed] == [sentence]


class Broken:
    """Reads the last column of the batch, so that padding and company change the score."""

    chat = tiny.chat()

    def __call__(self, batch: Batch) -> torch.Tensor:
        return batch.input_ids[:, -1].float()


class Sound(Broken):
    def __call__(self, batch: Batch) -> torch.Tensor:
        last = batch.attention_mask.sum(dim=1) - 1
        return batch.input_ids.gather(1, last[:, None]).squeeze(1).float()


def test_padding_and_company_change_nothing_in_a_sound_model() -> None:
    texts = [([5, 6], [7, 8, 9]), ([5], [7]), ([5, 6, 7], [8, 3])]
    assert padding_gap(Sound(), texts, 64) == 0.0
    assert padding_gap(Broken(), texts, 64) == 9.0 - Broken.chat.pad_id
    assert padding_gap(Broken(), texts[:1], 64) > 0  # a text that was never padded: the extra padding shows it


def test_the_table_has_a_row_a_slice() -> None:
    found = {
        "by_length": {"chosen_longer": {"accuracy": 0.5, "pairs": 2}},
        "by_annotator": {"ann": {"accuracy": 1.0, "pairs": 3}},
        "by_confidence": [{"confidence": 0.75, "accuracy": 0.8, "pairs": 5}],
    }
    assert breakdown(found) == [
        {"slice": "length: chosen_longer", "accuracy": 0.5, "pairs": 2},
        {"slice": "annotator: ann", "accuracy": 1.0, "pairs": 3},
        {"slice": "confidence: 0.75", "accuracy": 0.8, "pairs": 5},
    ]
