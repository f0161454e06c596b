import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.models import load_policy, save_policy
from rlhf.records import write_rows
from rlhf.supervised import mean_nll
from tasks.config.generation import Generation
from tasks.config.sft import Sft
from tasks.journal import Log
from tasks.sft import sft
from tests.tasks import tiny

QUICK = {"epochs": 12, "batch_size": 4, "lr": 0.02, "max_tokens": 12, "num_samples": 4}


def rows(words: list[str]) -> list[dict[str, Any]]:
    """Whatever is asked, the answer is `yes please`."""
    return [
        {
            "id": word,
            "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "yes please"}],
        }
        for word in words
    ]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    save_policy(tiny.policy(), tmp_path / "base")
    long, foreign = rows(["long", "foreign"])
    long["messages"][0]["content"] = "red " * 8
    foreign["messages"].insert(0, {"role": "system", "content": "red"})
    write_rows(tmp_path / "demonstrations/train.jsonl", [*rows(tiny.WORDS[:7]), long, foreign])
    write_rows(tmp_path / "demonstrations/val.jsonl", rows(tiny.WORDS[7:]))
    return {"base": tmp_path / "base", "demonstrations": tmp_path / "demonstrations"}


def run(inputs: dict[str, Path], folder: Path, max_new_tokens: int = 8, **settings: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    sft(
        Sft.model_validate(QUICK | settings), generation=Generation(max_new_tokens=max_new_tokens), seed=0,
        out=folder / "out", scratch=folder, log=Log.null(), **inputs,
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return metrics


def test_learns_to_answer_and_counts_what_does_not_fit(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(inputs, tmp_path / "run")
    assert (metrics["demonstrations"], metrics["dropped_long"], metrics["dropped_role"]) == (7, 1, 1)
    assert metrics["stop_rate"] > metrics["stop_rate_before"]
    saved = load_policy(tmp_path / "run/out/policy")
    held_out = [saved.chat.encode_conversation(row["messages"]) for row in rows(tiny.WORDS[7:])]
    assert metrics["val_nll"] == pytest.approx(mean_nll(saved, held_out, 4096), abs=1e-6)
    assert metrics["val_nll"] < 0.5


def test_says_which_knob_where_nothing_fits_or_nothing_is_held_out(inputs: dict[str, Path], tmp_path: Path) -> None:
    path = inputs["demonstrations"] / "train.jsonl"
    write_rows(path, _longer(path))
    with pytest.raises(PreflowError, match=r"0 of 9 train .*8 have more than 8 tokens.*sft\.max_tokens=8"):
        run(inputs, tmp_path / "long", max_tokens=8)
    with pytest.raises(PreflowError, match=r"0 of 3 prompts.*generation\.max_new_tokens=62"):
        run(inputs, tmp_path / "room", max_new_tokens=62)
    write_rows(inputs["demonstrations"] / "val.jsonl", [])
    with pytest.raises(PreflowError, match=r"val holds 0 demonstrations.*prepare\.val_share"):
        run(inputs, tmp_path / "empty")


def _longer(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in found:
        row["messages"][-1]["content"] = "yes please yes please"
    return found
