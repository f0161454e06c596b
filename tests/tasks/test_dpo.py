import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf.models import load_policy, token_logprobs
from rlhf.pairs import encode_pairs, pair_batch
from rlhf.records import write_rows
from tasks.config.dpo import Dpo
from tasks.dpo import dpo
from tasks.journal import Log
from tests.tasks import tiny

QUICK = {"epochs": 6, "batch_size": 4, "lr": 0.01, "warmup_steps": 1, "checkpoint_every": 3, "max_batch_tokens": 64}


def rows(words: list[str]) -> list[dict[str, Any]]:
    """People here like `yes` better than `no no`, whatever was asked."""
    return [
        {
            "messages": [{"role": "user", "content": word}],
            "chosen": "yes please",
            "rejected": "no no",
            "id": word,
            "half": "policy",
        }
        for word in words
    ]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    tiny.save_models(tmp_path)
    write_rows(tmp_path / "pairs" / "train.jsonl", rows(tiny.WORDS[:7]))
    write_rows(tmp_path / "pairs" / "val.jsonl", rows(tiny.WORDS[7:]))
    return {"policy": tmp_path / "policy", "pairs": tmp_path / "pairs"}


def run(inputs: dict[str, Path], folder: Path, log: Log | None = None, **settings: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    dpo(
        Dpo.model_validate(QUICK | settings), seed=0, out=folder / "out", scratch=folder / "scratch",
        log=log or Log.null(), **inputs,
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads((folder / "out" / "metrics.json").read_text())
    return metrics


def test_learns_to_prefer_what_was_preferred_on_prompts_it_has_not_seen(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    metrics = run(inputs, tmp_path / "run")
    assert metrics["pairs"] == 7 and metrics["val_pairs"] == 3
    assert metrics["val_accuracy"] == 1.0
    assert metrics["val_loss"] < 0.5 < math.log(2)
    policy, start = load_policy(tmp_path / "run/out/policy"), load_policy(inputs["policy"])
    batch = pair_batch(encode_pairs(policy.chat, rows(tiny.WORDS[7:8])), policy.chat.pad_id)
    after, before = (token_logprobs(one.model, batch).sum(dim=1).tolist() for one in (policy, start))
    assert after[0] - before[0] > after[1] - before[1]


def test_the_first_step_is_at_the_reference(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Cached log-probabilities are those of the policy it starts from: loss log 2, accuracy a tie, margin 0."""

    class First(Log):
        seen: dict[str, float] | None = None

        def __call__(self, metrics: Any, step: int) -> None:
            self.seen = self.seen or dict(metrics)

    log = First(None)
    run(inputs, tmp_path / "run", log=log)
    assert log.seen is not None
    assert log.seen["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert log.seen["dpo/margin"] == pytest.approx(0.0, abs=1e-5)
    assert log.seen["dpo/chosen_logprob"] < 0 and log.seen["dpo/rejected_logprob"] < 0


def test_killed_and_run_again_gives_the_same_bytes_without_asking_the_reference_again(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, tmp_path / "unbroken")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.dpo.save_policy", die)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "broken")
    monkeypatch.undo()
    (tmp_path / "broken" / "out").rmdir()
    monkeypatch.setattr("tasks.dpo.save_file", die)
    run(inputs, tmp_path / "broken")
    assert tiny.contents(tmp_path / "broken/out") == tiny.contents(tmp_path / "unbroken/out")


def test_cached_reference_is_not_used_for_other_pairs(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run")
    write_rows(inputs["pairs"] / "val.jsonl", rows(["red blue", "two"]))
    (tmp_path / "run/out").rename(tmp_path / "run/first")
    run(inputs, tmp_path / "run")
    assert len(list((tmp_path / "run/scratch").glob("reference-*.safetensors"))) == 2


def test_learns_nothing_from_the_half_that_the_judge_was_fitted_on(inputs: dict[str, Path], tmp_path: Path) -> None:
    expected = run(inputs, tmp_path / "without")
    others = [row | {"half": "held_out", "chosen": "no no", "rejected": "yes please"} for row in rows(tiny.WORDS[:7])]
    write_rows(inputs["pairs"] / "train.jsonl", [*others, *rows(tiny.WORDS[:7])])
    assert run(inputs, tmp_path / "with") == expected
    assert tiny.contents(tmp_path / "with/out") == tiny.contents(tmp_path / "without/out")
