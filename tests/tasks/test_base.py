import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.models import load_policy
from rlhf.records import write_rows
from tasks.base import base
from tasks.config.base import Base
from tasks.journal import Log

QUICK = {
    "hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_tokens": 16, "epochs": 2,
    "batch_size": 4,
}  # fmt: skip


def run(folder: Path, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> dict[str, Any]:
    write_rows(folder / "corpus/train.jsonl", train)
    write_rows(folder / "corpus/val.jsonl", val)
    (folder / "out").mkdir()
    base(
        Base.model_validate(QUICK), corpus=folder / "corpus", checkpoint=folder, out=folder / "out", scratch=folder,
        log=Log.null(),
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return metrics


def test_documents_past_the_positions_are_dropped_and_counted(tmp_path: Path) -> None:
    fits, long = {"text": "a b c d e " * 3}, {"text": "a b c d e " * 3 + "a"}  # 15 and 16 words after the first marker
    foreign = {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}
    metrics = run(tmp_path, [fits, long, foreign, fits], [fits, long])
    assert (metrics["documents"], metrics["dropped_long"], metrics["dropped_role"]) == (2, 1, 1)
    assert metrics["tokens"] == 2 * 16 * 2
    policy = load_policy(tmp_path / "out/policy")
    assert policy.model.config.max_position_embeddings == 16
    assert {"a", "e"} <= set(policy.chat.tokenizer.get_vocab())


def test_says_which_knob_where_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(
        PreflowError, match=r"0 of 2 documents are left: 2 have more than 16 tokens.*base\.max_tokens=16"
    ):
        run(tmp_path / "long", [{"text": "a " * 16}] * 2, [])
    with pytest.raises(PreflowError, match=r"0 train documents.*base\.source=checkpoint"):
        run(tmp_path / "none", [], [])
