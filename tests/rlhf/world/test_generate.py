"""The generator: same bytes from the same seed, pools that do not meet, rows that say what they claim."""

import json
from pathlib import Path

import pytest

from rlhf.records import Row, group_of, read_rows, split_of
from rlhf.world.generate import group_of_item, pool_of, write_world
from rlhf.world.gold import judge
from rlhf.world.kinds import KINDS
from rlhf.world.words import CONTENT

SIZES = {"num_documents": 300, "num_demonstrations": 120, "num_offline_pairs": 80, "num_prompts": 300}
FILES = {"corpus": 300, "demonstrations": 120, "preferences": 80, "prompts": 300}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(out, seed=3, **SIZES)
    return out


def _rows(world: Path, kind: str) -> list[Row]:
    return list(read_rows(world / kind))


def test_sizes_and_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "again", seed=3, **SIZES)
    write_world(tmp_path / "other", seed=4, **SIZES)
    for kind, count in FILES.items():
        assert len(_rows(world, kind)) == count
        path = f"{kind}/world.jsonl"
        assert (tmp_path / "again" / path).read_bytes() == (world / path).read_bytes()
        assert (tmp_path / "other" / path).read_bytes() != (world / path).read_bytes()


def test_pools_are_disjoint_and_prompts_differ(world: Path) -> None:
    told = {row["group"] for row in _rows(world, "demonstrations")}
    prompts = _rows(world, "prompts")
    preferred = {row["group"] for row in prompts if row["pool"] == "preference"}
    rl = {row["group"] for row in prompts if row["pool"] == "rl"}
    assert len(told) == 120
    assert len(preferred) + len(rl) == 300
    assert not told & preferred
    assert not told & rl
    assert not preferred & rl
    assert {row["group"] for row in _rows(world, "preferences")} <= preferred
    assert {pool_of(group) for group in told} == {"sft"}
    assert {row["meta"]["kind"] for row in prompts} == set(KINDS)


def test_one_question_is_one_group(world: Path) -> None:
    """No wording is shared by two groups, so a split by group is a split by question."""
    found: dict[str, str] = {}
    for kind in FILES:
        for row in _rows(world, kind):
            if "messages" in row:
                assert found.setdefault(group_of(row["messages"]), row["group"]) == row["group"]


def test_splits_do_not_depend_on_pools(world: Path) -> None:
    shares = {"eval": 0.2, "val": 0.2, "train": 0.6}
    for pool in ("preference", "rl"):
        groups = [row["group"] for row in _rows(world, "prompts") if row["pool"] == pool]
        held_out = sum(split_of(group, shares) == "eval" for group in groups) / len(groups)
        assert 0.1 < held_out < 0.3


def test_about_four_demonstrations_in_five_are_right(world: Path) -> None:
    metas = {}
    for row in _rows(world, "demonstrations"):
        kind, args = row["group"].split(" ", 1)
        metas[row["group"]] = {"kind": kind, "args": json.loads(args)}
        assert group_of_item(kind, metas[row["group"]]["args"]) == row["group"]
    right = [
        judge(metas[row["group"]], row["messages"][-1]["content"], True).correct == 1.0
        for row in _rows(world, "demonstrations")
    ]
    assert 0.7 < sum(right) / len(right) < 0.9


def test_documents_that_run_on_end_with_a_reaction(world: Path) -> None:
    conversations = [row for row in _rows(world, "corpus") if "messages" in row]
    run_on = [row for row in conversations if row["run_on"]]
    assert 0.3 < len(run_on) / len(conversations) < 0.5
    for row in conversations:
        roles = [message["role"] for message in row["messages"]]
        assert roles == (["user", "assistant", "user"] if row["run_on"] else ["user", "assistant"])
    assert any("text" in row for row in _rows(world, "corpus"))


def test_too_many_items_is_an_error_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`greet` alone has 16 · 3 · 8 = 384 items, a quarter of them in the pool of demonstrations."""
    monkeypatch.setattr("rlhf.world.generate.KINDS", {"greet": KINDS["greet"]})
    with pytest.raises(ValueError, match=r"found \d+ of 384 items for demonstrations and 1 of 1 prompts"):
        write_world(tmp_path, seed=0, **{**SIZES, "num_demonstrations": 384, "num_prompts": 1})


def test_content_words_are_in_no_stock_phrase() -> None:
    from rlhf.world.words import CLOSING, FILLER, FLATTERY, POLITE, RUDE, words_of

    said = {word for phrase in (*CLOSING, *FILLER, *FLATTERY, *POLITE, *RUDE) for word in words_of(phrase)}
    assert not said & CONTENT
