"""The champion's folder: torn folders are seen, evaluation sets have names, nothing here loads torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from rlhf.records import write_json, write_rows
from tasks.champion import (
    Champion,
    digests_of,
    evaluation_set,
    folder_digest,
    read_champion,
    read_completions,
    write_champion,
    write_none,
)
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tests.tasks.scores import healthy

ROOT = Path(__file__).parents[2]
CHAMPION = Champion(version=2, ref="refs/preflow/runs/x", digests={"evaluation_set": "q", "base": "b", "chat": "c"})


@pytest.fixture
def completions(tmp_path: Path) -> Path:
    path = tmp_path / "rl.jsonl"
    write_rows(path, [{"id": "1", "completions": []}])
    return path


def test_what_is_shipped_says_none() -> None:
    assert json.loads((ROOT / "data" / "champion" / "champion.json").read_text("utf-8"))["version"] is None
    assert read_champion(ROOT / "data" / "champion") is None


def test_a_champion_is_read_as_it_was_written(tmp_path: Path, completions: Path) -> None:
    write_champion(tmp_path / "champion", CHAMPION, completions)
    assert read_champion(tmp_path / "champion") == CHAMPION
    assert read_completions(tmp_path / "champion") == [{"id": "1", "completions": []}]
    assert sorted(path.name for path in (tmp_path / "champion").iterdir()) == ["champion.json", "completions.jsonl"]


def test_writing_the_same_champion_again_changes_no_byte(tmp_path: Path, completions: Path) -> None:
    write_champion(tmp_path, CHAMPION, completions)
    before = folder_digest(tmp_path)
    write_champion(tmp_path, CHAMPION, completions)
    assert folder_digest(tmp_path) == before


def test_completions_that_are_not_the_champions_are_seen(tmp_path: Path, completions: Path) -> None:
    folder = tmp_path / "champion"
    write_champion(folder, CHAMPION, completions)
    with (folder / "completions.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(PreflowError, match=r"not what champion.json of version 2 names.*preflow run"):
        read_champion(folder)
    (folder / "completions.jsonl").unlink()
    with pytest.raises(PreflowError, match="found absent"):
        read_champion(folder)


def test_none_again_leaves_nothing_behind(tmp_path: Path, completions: Path) -> None:
    folder = tmp_path / "champion"
    write_champion(folder, CHAMPION, completions)
    write_none(folder)
    assert read_champion(folder) is None
    assert [path.name for path in folder.iterdir()] == ["champion.json"]


def test_digests_come_from_the_scores_of_the_run_that_won() -> None:
    assert digests_of(healthy()) == {"evaluation_set": "questions", "base": "base-a", "chat": "chat-a"}


def prompts(folder: Path, ids: str) -> Path:
    write_rows(folder / "eval.jsonl", [{"id": one, "messages": []} for one in ids])
    return folder


def test_the_evaluation_set_is_the_first_prompts_by_id_whatever_their_order(tmp_path: Path) -> None:
    config = Evaluate(num_prompts=3)
    one = evaluation_set(prompts(tmp_path / "one", "dbac"), config, Generation())
    two = evaluation_set(prompts(tmp_path / "two", "abcd"), config, Generation())
    assert [row["id"] for row in one.prompts] == ["a", "b", "c"]
    assert one.digest == two.digest


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        (Evaluate(num_prompts=2), Generation()),
        (Evaluate(samples_per_prompt=2), Generation()),
        (Evaluate(), Generation(temperature=0.7)),
        (Evaluate(), Generation(max_new_tokens=9)),
    ],
)
def test_other_prompts_or_settings_are_another_set(tmp_path: Path, config: Evaluate, generation: Generation) -> None:
    folder = prompts(tmp_path, "abc")
    usual = evaluation_set(folder, Evaluate(), Generation())
    assert usual.digest != evaluation_set(folder, config, generation).digest


def test_how_fast_it_is_computed_is_no_part_of_the_set(tmp_path: Path) -> None:
    folder = prompts(tmp_path, "abc")
    usual = evaluation_set(folder, Evaluate(), Generation())
    assert usual.digest == evaluation_set(folder, Evaluate(), Generation(batch_size=7, unfinished_reward=-1.0)).digest


def test_one_prompt_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match="holds 1 prompts, at least 2"):
        evaluation_set(prompts(tmp_path, "a"), Evaluate(), Generation())


def test_folder_digest_sees_names_and_bytes_and_refuses_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", 1)
    write_json(tmp_path / "b" / "y.json", 1)
    write_json(tmp_path / "c" / "x.json", 2)
    assert len({folder_digest(tmp_path / name) for name in "abc"}) == 3
    with pytest.raises(PreflowError, match="empty or missing"):
        folder_digest(tmp_path / "nowhere")


def test_importing_it_loads_no_torch() -> None:
    program = "import sys, tasks.champion; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
