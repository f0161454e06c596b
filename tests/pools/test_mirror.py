"""Checkpoints in the exchange: the furthest whole one is gone on with, and nothing that is not what its index says."""

import json
from pathlib import Path

import pytest

from flows.pools.exchange import Exchange
from flows.pools.mirror import Mirror
from rlhf.errors import PreflowError

KEY = "rl-0123456789abcdef"


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(str(tmp_path / "exchange"))


def scratch(host: Path) -> Path:
    return host / "scratch" / KEY


def step(host: Path, number: int, folder: str = "checkpoints") -> None:
    path = scratch(host) / folder / f"step-{number:06d}"
    path.mkdir(parents=True)
    (path / "tensors.safetensors").write_bytes(bytes([number]) * (3 << 20))  # large: it is linked, and not copied
    (path / "state.json").write_text(f'{{"step": {number}}}')


def files(host: Path) -> dict[str, bytes]:
    found = (path for path in sorted(scratch(host).rglob("*")) if path.is_file())
    return {path.relative_to(scratch(host)).as_posix(): path.read_bytes() for path in found}


def test_another_host_has_what_the_last_checkpoint_needs(tmp_path: Path, exchange: Exchange) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    mirror = Mirror(exchange, scratch(one), "a", "r1")
    assert not mirror.push(), "there is no checkpoint yet"
    step(one, 1)
    (scratch(one) / "replies.jsonl").write_text("asked\n")
    (scratch(one) / "checkpoints/.tmp-000002").mkdir()
    assert mirror.push()
    (scratch(one) / "replies.jsonl").write_text("asked\nand again\n")
    assert not mirror.push(), "not before the next checkpoint"
    step(one, 2)
    assert mirror.push()
    assert Mirror(exchange, scratch(two), "b", "r1").restore()
    assert files(two) == files(one)


def test_what_is_no_longer_needed_is_removed_there_too(tmp_path: Path, exchange: Exchange) -> None:
    mirror = Mirror(exchange, scratch(tmp_path), "a", "r1")
    step(tmp_path, 1)
    mirror.push()
    first = set(exchange.names(f"checkpoints/{KEY}/a"))
    for path in sorted((scratch(tmp_path) / "checkpoints/step-000001").iterdir()):
        path.unlink()
    (scratch(tmp_path) / "checkpoints/step-000001").rmdir()
    step(tmp_path, 2)
    mirror.push()
    assert set(exchange.names(f"checkpoints/{KEY}/a")) & first == {"index.json"}
    exchange.remove(mirror.folder)
    assert exchange.names(f"checkpoints/{KEY}") == []


def test_the_furthest_attempt_counts_over_all_that_a_stage_trains(tmp_path: Path, exchange: Exchange) -> None:
    near, far, here = (tmp_path / name for name in ("near", "far", "here"))
    step(near, 9, "checkpoints-top")
    Mirror(exchange, scratch(near), "z", "r1").push()
    for folder, number in (("checkpoints-top", 8), ("checkpoints-top", 7), ("checkpoints-random", 4)):
        step(far, number, folder)
    Mirror(exchange, scratch(far), "a", "r1").push()
    assert Mirror(exchange, scratch(here), "b", "r1").restore()
    assert files(here) == files(far)


def test_what_lies_here_and_is_as_far_stays(tmp_path: Path, exchange: Exchange) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    step(one, 3)
    Mirror(exchange, scratch(one), "a", "r1").push()
    step(two, 3)
    (scratch(two) / "own").write_text("here")
    assert Mirror(exchange, scratch(two), "b", "r1").restore() is False
    assert (scratch(two) / "own").exists()


def test_one_that_was_damaged_is_passed_over(tmp_path: Path, exchange: Exchange) -> None:
    one, two, here = (tmp_path / name for name in ("one", "two", "here"))
    step(one, 1)
    Mirror(exchange, scratch(one), "a", "r1").push()
    step(two, 2)
    Mirror(exchange, scratch(two), "b", "r1").push()
    largest = max((tmp_path / "exchange" / "checkpoints" / KEY / "b").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"!")
    assert Mirror(exchange, scratch(here), "c", "r1").restore()
    assert files(here) == files(one)


def test_an_index_cannot_write_elsewhere(tmp_path: Path, exchange: Exchange) -> None:
    index = {"files": {"../evil": {"bytes": 0, "sha256": "0"}}, "reached": [5, 0]}
    exchange.put(f"checkpoints/{KEY}/a/index.json", json.dumps(index).encode())
    with pytest.raises(PreflowError, match="which no stage of ours keeps"):
        Mirror(exchange, scratch(tmp_path), "b", "r1").restore()


def test_what_a_judge_has_said_is_kept_without_a_checkpoint_and_in_whole_lines(
    tmp_path: Path, exchange: Exchange
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    scratch(one).mkdir(parents=True)
    replies = scratch(one) / "replies.jsonl"
    replies.write_text("a long line\n" * 200_000 + "half a li")  # beyond any size up to which files might be copied
    mirror = Mirror(exchange, scratch(one), "a", "r1")
    assert not mirror.push()
    assert mirror.push(whatever=True)
    assert not mirror.push(whatever=True), "nothing has grown"
    with replies.open("a") as file:
        file.write("ne\n")
    assert Mirror(exchange, scratch(two), "b", "r1").restore()
    assert (scratch(two) / "replies.jsonl").read_text() == "a long line\n" * 200_000


def test_a_kill_in_the_middle_of_sending_leaves_nothing_that_holds_the_disk(tmp_path: Path, exchange: Exchange) -> None:
    left = scratch(tmp_path).with_name(f".frozen-{KEY}-0a1b2c3d")
    left.mkdir(parents=True)
    Mirror(exchange, scratch(tmp_path), "a", "r1")
    assert not left.exists()
