"""A person asks to be left out: a real pipeline, its lineage, the withdrawal, and the run after it.

Sizes are cut until it fits a test: what is asserted is where rows went, not what was learnt.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import read_rows
from tests.test_end_to_end import SHORT, copied, environ, preflow

TINY = SHORT | {
    "collect.world.num_documents": 8000,
    "collect.world.num_demonstrations": 600,
    "collect.world.num_prompts": 1600,
    "annotate.num_prompts": 300,
    "annotate.train_on": "both",
    "sample.num_prompts": 100,
    "rl.num_updates": 4,
    "rl.num_val_prompts": 20,
    "rl.val_every": 2,
    "dpo.max_pairs": 200,
    "evaluate.num_prompts": 60,
    "reward_model.min_accuracy": 0.3,
    "reward_model.max_calibration_error": 0.7,
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = copied(tmp_path_factory.mktemp("withdraw") / "checkout", TINY)
    yield root
    subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=root, env=environ(), check=False)


def ask(root: Path, *words: str) -> dict[str, Any]:
    """A `preflow` command with --json."""
    command = [sys.executable, "-m", "flows.cli", *words, "--json"]
    done = subprocess.run(command, cwd=root, text=True, capture_output=True, env=environ(), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_ada(root: Path) -> list[str]:
    """Files among the outs that hold a row of hers; withdrawn lines of raw files are empty."""
    files = sorted((root / "data").glob("[01]*/**/*.jsonl"))
    lines = {file: filter(str.strip, file.read_text(encoding="utf-8").split("\n")) for file in files}
    held = [file for file in files if any(json.loads(line).get("annotator") == "ada" for line in lines[file])]
    return [str(file.relative_to(root)) for file in held]


@pytest.mark.slow
@pytest.mark.e2e
def test_a_person_asks_to_be_left_out(checkout: Path) -> None:
    first = preflow(checkout)
    train = list(read_rows(checkout / "data/06_preferences/pairs/train.jsonl"))
    row = next(row for row in train if row["annotator"] == "ada" and row["half"] == "policy")
    found = ask(checkout, "lineage", f"row:{row['id']}")
    words = {one["path"].removeprefix("data/"): one["word"] for one in found["models"]}
    assert words["07_reward_model/policy_rm"] == "trained on"
    assert words["07_reward_model/held_out_rm"] == "read, not trained on"
    assert words["10_rl/policy"] == "built on"
    assert not {"04_base/policy", "05_sft/policy"} & set(words)
    assert any(name.startswith("data/0") for name in of_ada(checkout))

    done = ask(checkout, "withdraw", "--annotator", "ada", "--purge", "--yes")
    retired = {one["path"].removeprefix("data/") for one in done["retire"]["models"]}
    assert {"07_reward_model/policy_rm", "07_reward_model/held_out_rm", "11_dpo/policy", "10_rl/policy"} <= retired
    assert "05_sft/policy" not in retired
    assert first["run"] in done["lost"]
    assert done["withdrawn"]["left"] == 0
    again = preflow(checkout)
    assert {stage["name"] for stage in again["stages"] if stage["state"] == "ran"} >= {"annotate", "reward_model", "rl"}
    assert of_ada(checkout) == []
    for path in (checkout / ".dvc/cache/files").rglob("*"):
        lines = path.read_bytes().splitlines() if path.is_file() else []
        assert not [line for line in lines if b'"annotator": "ada"' in line and b'"messages"' in line], path
    runs = {run for one in ask(checkout, "lineage", "annotator:ben")["data_versions"] for run in one["runs"]}
    assert again["run"] in runs
