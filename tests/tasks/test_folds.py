"""Stage `folds` on a dozen words: what there is to learn it learns, and on held-out pairs only it is judged."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.records import Row, write_rows
from tasks import folds as stage
from tasks.config.folds import Folds
from tasks.config.reward_model import RewardModel as Recipe
from tasks.folds_report import lines
from tasks.journal import Log
from tests.tasks import tiny

SIDES = ("chosen", "rejected")
QUICK = {"epochs": 6, "batch_size": 4, "lr": 0.01, "head_lr": 0.02, "max_batch_tokens": 256}


def pair(group: str, chosen: str, rejected: str) -> Row:
    return {"group": group, "messages": [{"role": "user", "content": group}], "chosen": chosen, "rejected": rejected}


def kind_answers(count: int = 24) -> list[Row]:
    """`yes` wins, whether the answer is longer or shorter; the shorter one wins two times of three."""
    rng = random.Random(0)
    rows = []
    for number in range(count):
        group = f"{tiny.WORDS[number % 6]} {tiny.WORDS[number // 6]}"
        short, long = rng.choice(("red", "blue")), " ".join(rng.choices(("red", "blue"), k=4))
        chosen, rejected = (long, short) if number % 3 == 0 else (short, long)
        rows.append(pair(group, f"yes {chosen}", f"no {rejected}"))
    return rows


def tokens(chat: Chat, row: Row) -> int:
    return 2 * len(chat.encode_prompt(row["messages"])) + sum(len(chat.encode_completion(row[s])) for s in SIDES)


def run(folder: Path, rows: Sequence[Row], count: int = 3, **settings: Any) -> dict[str, Any]:
    tiny.save_models(folder)
    for split, part in (("train", rows[0::3]), ("val", rows[1::3]), ("eval", rows[2::3])):
        write_rows(folder / f"preferences/{split}.jsonl", part)
    (folder / "out").mkdir()
    stage.folds(
        Folds(count=count), reward_model=Recipe.model_validate(QUICK | settings), seed=0, policy=folder / "policy",
        preferences=folder / "preferences", out=folder / "out", scratch=folder, log=Log.null(),
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return found


def test_what_is_said_beats_the_length_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(tmp_path, kind_answers())
    assert metrics["pairs"] == sum(part["held_out_pairs"] for part in metrics["folds"]) == 24
    assert metrics["accuracy"]["mean"] == 1.0
    assert metrics["length_rule"]["mean"] == pytest.approx(2 / 3)
    assert metrics["difference"]["mean"] == pytest.approx(1 / 3) and metrics["difference"]["ci_low"] > 0
    assert metrics["length"]["matched_accuracy"] == 1.0 and metrics["length"]["length_part"] == 0.0
    assert metrics["trust"]["by_length"]["chosen_longer"] == {"accuracy": 1.0, "pairs": 8}
    assert {part["length_rule_prefers"] for part in metrics["folds"]} == {"shorter"}
    printed = capsys.readouterr().err
    assert "\n".join(lines(metrics)) in printed
    assert "accuracy 1.000 [1.000, 1.000], length rule 0.667" in printed
    assert "3 models" in printed and "epochs 6" in printed


def test_budget_counts_what_was_trained(tmp_path: Path) -> None:
    metrics = run(tmp_path, kind_answers(), epochs=2)
    assert metrics["budget"]["tokens"] == sum(part["tokens"] for part in metrics["folds"])
    assert metrics["budget"]["steps"] == 3 * 2 * 4  # 16 pairs in steps of 4
    assert metrics["budget"]["models"] == 3
    each = [tokens(tiny.chat(), row) for row in kind_answers()]
    assert metrics["budget"]["tokens"] == 2 * 2 * sum(each)  # each pair is learnt from in two folds of three, twice
    assert metrics["budget"]["parameters"] == metrics["budget"]["trained_parameters"]


def test_heads_alone(tmp_path: Path) -> None:
    budget = run(tmp_path, kind_answers(), epochs=1, lr=0.0, lm_coef=0.0)["budget"]
    assert budget["trained_parameters"] == 17 + (17 * 32 + 32) + 33  # a width of 16, and the log-probability


def test_no_group_is_learnt_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[set[str]] = []
    judged: list[set[str]] = []
    fit, score = stage.fit_member, stage.score_pairs

    def fit_seen(config: Any, model: Any, prompts: Any, **more: Any) -> Any:
        learnt.append({one.group for one in prompts})
        return fit(config, model, prompts, **more)

    def score_seen(model: Any, rows: Any, *more: Any) -> Any:
        judged.append({row["group"] for row in rows})
        return score(model, rows, *more)

    monkeypatch.setattr(stage, "fit_member", fit_seen)
    monkeypatch.setattr(stage, "score_pairs", score_seen)
    rows = [*kind_answers(), *(row | {"chosen": row["chosen"] + " green"} for row in kind_answers())]
    run(tmp_path, rows, epochs=1)
    everything = {row["group"] for row in rows}
    assert [one | other for one, other in zip(learnt, judged, strict=True)] == [everything] * 3
    assert all(one.isdisjoint(other) for one, other in zip(learnt, judged, strict=True))
    assert sorted(name for names in judged for name in names) == sorted(everything)


def test_a_fold_is_trained_as_if_it_were_alone(tmp_path: Path) -> None:
    """The same rows in another order: the same folds; and again: the same bytes."""
    rows = kind_answers()
    first = run(tmp_path / "a", rows, epochs=1)
    assert run(tmp_path / "b", rows, epochs=1) == first


def test_pairs_without_room_or_difference_are_left_out_and_counted(tmp_path: Path) -> None:
    long = pair("one two", "yes " * 70, "no")
    equal = pair("two one", "yes", " yes ")  # the same tokens
    metrics = run(tmp_path, [*kind_answers(), long, equal], epochs=1)
    assert metrics["dropped"] == {"dropped_long": 1.0, "dropped_role": 0.0, "dropped_equal": 1.0}
    assert metrics["pairs"] == 24


def test_fewer_groups_than_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"2 groups.*folds\.count=3"):
        run(tmp_path, kind_answers(2))
