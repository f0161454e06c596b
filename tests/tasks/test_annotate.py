import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataRefused, PreflowError
from rlhf.models import load_policy, save_policy
from rlhf.records import Row, content_id, read_rows, write_rows
from rlhf.world.generate import write_world
from tasks.annotate import annotate
from tasks.config.annotate import Annotate
from tasks.config.generation import Generation
from tasks.config.validate import Validate
from tasks.journal import Log
from tests.tasks import tiny

EXPECTATIONS = Path(__file__).parents[2] / "data" / "expectations"
LENIENT = Validate(max_quarantine_share=1.0, max_length_bias=0.5)
SPLITS = ("train", "val", "eval")


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOW_REPORTS", str(tmp_path / "reports"))


def pair(number: int, split: str, **changes: Any) -> Row:
    row = {
        "messages": [{"role": "user", "content": f"question {number}"}],
        "chosen": "yes please" if number % 2 else "yes",
        "rejected": "no" if number % 2 else "no thanks",
        "annotator": "someone", "origin": "offline", "margin": None,
    } | changes  # fmt: skip
    place = {"source": "test", "file": f"preferences/{split}", "line": number, "group": f"{split} {number}"}
    return place | {"split": split, "id": content_id(row)} | row


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Offline pairs; and prompts of the embedded world, most of whose words the model does not know."""
    save_policy(tiny.policy(), tmp_path / "policy")
    write_world(tmp_path / "world", seed=0, num_documents=1, num_demonstrations=30, num_offline_pairs=2, num_prompts=90)
    asked = list(read_rows(tmp_path / "world/prompts"))
    for split, rows in {"train": asked[:70], "val": asked[70:80], "eval": asked[80:]}.items():
        placed = [
            row | {"id": content_id(row), "split": split, "source": "test", "file": split, "line": line}
            for line, row in enumerate(rows, start=1)
        ]
        write_rows(tmp_path / ("eval" if split == "eval" else "prompts") / f"{split}.jsonl", placed)
    for split, numbers in {"train": range(40), "val": range(40, 46), "eval": range(46, 52)}.items():
        write_rows(tmp_path / f"preferences/{split}.jsonl", [pair(number, split) for number in numbers])
    return {"policy": tmp_path / "policy", "prompts": tmp_path / "prompts", "eval_prompts": tmp_path / "eval"} | {
        "preferences": tmp_path / "preferences"
    }


def run(
    inputs: dict[str, Path], folder: Path, *, validate: Validate = LENIENT, max_new_tokens: int = 12, **settings: Any
) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    annotate(
        Annotate.model_validate(settings), generation=Generation(max_new_tokens=max_new_tokens), validate=validate,
        seed=0, expectations=EXPECTATIONS, out=folder, log=Log.null(), **inputs,
    )  # fmt: skip
    pairs = {split: list(read_rows(folder / f"pairs/{split}.jsonl")) for split in SPLITS}
    return json.loads((folder / "metrics.json").read_text()), pairs


def test_trains_on_finished_pairs_and_measures_on_all_of_them(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics, pairs = run(inputs, tmp_path / "out", num_prompts=20)
    trained = {(row["stopped"]["chosen"], row["stopped"]["rejected"]) for row in pairs["train"]}
    measured = {(row["stopped"]["chosen"], row["stopped"]["rejected"]) for row in pairs["eval"]}
    assert trained == {(True, True)} and measured > trained
    assert metrics["on_policy_eval_pairs"] == metrics["eval_pairs"] == len(pairs["eval"])
    assert metrics["on_policy_train_pairs"] > metrics["train_pairs"] == len(pairs["train"])
    halves = {half: {row["group"] for row in pairs["train"] if row["half"] == half} for half in ("policy", "held_out")}
    assert all(halves.values()) and not halves["policy"] & halves["held_out"]
    asked = sorted((row["id"], row) for row in read_rows(inputs["prompts"] / "train.jsonl") if row["pool"] != "rl")
    assert {row["group"] for row in pairs["train"]} <= {row["group"] for _, row in asked[:20]}
    run(inputs, tmp_path / "again", num_prompts=20)
    assert tiny.contents(tmp_path / "again") == tiny.contents(tmp_path / "out")


def test_a_question_keeps_its_half_when_rows_come_and_shares_are_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    _, few = run(inputs, tmp_path / "few", train_on="offline", held_out_share=0.25, num_prompts=1)
    path = inputs["preferences"] / "train.jsonl"
    write_rows(path, [*read_rows(path), *(pair(number, "train") for number in range(100, 500))])
    _, many = run(inputs, tmp_path / "many", train_on="offline", held_out_share=0.25, num_prompts=1)
    halves = {row["id"]: row["half"] for row in many["train"]}
    assert all(halves[row["id"]] == row["half"] for row in few["train"])
    assert 0.2 < sum(half == "held_out" for half in halves.values()) / len(halves) < 0.3


def test_offline_pairs_meet_the_gate_of_the_run_and_the_evaluation_prompts(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"train_on": "offline", "num_prompts": 1}
    run(inputs, tmp_path / "clean", **settings)
    strict = Validate(max_completion_chars=3, max_quarantine_share=0.1, max_length_bias=0.5)
    with pytest.raises(DataRefused, match="long_reply"):
        run(inputs, tmp_path / "short", validate=strict, **settings)
    path = inputs["preferences"] / "train.jsonl"
    exam = next(read_rows(inputs["eval_prompts"] / "eval.jsonl"))
    write_rows(path, [*read_rows(path), pair(60, "train", messages=exam["messages"])])
    with pytest.raises(DataRefused, match="leaked_eval"):
        run(inputs, tmp_path / "leaked", **settings)


@pytest.mark.faults(
    41,
    injected="prompts and pairs longer than the model's context",
    happens="dropped, and counted in the stage's metrics",
)
def test_what_the_model_has_no_room_or_no_role_for_is_dropped_and_counted(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    path = inputs["preferences"] / "train.jsonl"
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "question"}]
    extra = [pair(60, "train", chosen="yes " * 60), pair(61, "train", messages=system)]
    write_rows(path, [*read_rows(path), *extra])
    prompts = list(read_rows(inputs["prompts"] / "val.jsonl"))
    prompts[0]["messages"][0]["content"] = "red " * 60
    write_rows(inputs["prompts"] / "val.jsonl", prompts)
    metrics, pairs = run(inputs, tmp_path / "out", train_on="offline", num_prompts=1)
    assert metrics["train_pairs"] == len(pairs["train"]) == 40
    assert (metrics["train_pairs_dropped_long"], metrics["train_pairs_dropped_role"]) == (1, 1)
    assert metrics["val_prompts_dropped_long"] == 1
    policy = load_policy(inputs["policy"])
    assert policy.model.config.max_position_embeddings == 64


def test_says_how_many_pairs_there_were_and_which_knob_to_turn(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"0 of \d+ prompts.*generation\.max_new_tokens=62"):
        run(inputs, tmp_path / "room", max_new_tokens=62)
    expected = r"0 training pairs are left .*of 40 offline and [1-9]\d* on-policy ones, .*generation\.max_new_tokens"
    with pytest.raises(PreflowError, match=expected):
        run(inputs, tmp_path / "cut", max_new_tokens=1, num_prompts=2)  # nobody has finished after one token
