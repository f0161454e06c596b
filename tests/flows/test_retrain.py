"""What makes a retrain due, and what a watched folder brings; without a server."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import profiles, retrain, retrain_data, retrain_due
from flows.retrain_due import Memory, Seen
from rlhf.errors import PreflowError
from tests.flows import small


def test_what_is_new_is_named_and_nothing_else_is_due(tmp_path: Path) -> None:
    root = small.make(tmp_path / "project")
    small.shard(root, "a", "good")
    memory = Memory()

    def seen(*settings: str) -> Seen:
        return retrain_due.look(root, profiles.resolve(root, "", settings), memory)

    first = seen()
    before = asdict(first)
    assert retrain_due.why(first, {}) == "the first retrain here"
    assert retrain_due.why(seen(), before) == ""
    small.shard(root, "b", "good")
    assert retrain_due.why(seen(), before) == "data new: preferences/b.jsonl"
    small.shard(root, "a", "flipped")
    assert "changed: preferences/a.jsonl" in retrain_due.why(seen(), before)
    assert "params changed: rl.kl_coef" in retrain_due.why(seen("rl.kl_coef=0.123"), before)


def test_slots_before_the_last_answer_are_covered() -> None:
    memory = Memory(asked=1000.0)

    def goes_on(_: str) -> bool:
        return True

    assert "has answered for it" in retrain._covered(memory, datetime.fromtimestamp(999.0, UTC), goes_on)
    assert retrain._covered(memory, datetime.fromtimestamp(1001.0, UTC), goes_on) == ""
    assert retrain._covered(memory, None, goes_on) == ""


def test_whole_shards_of_a_watched_folder_come_once_and_stay(tmp_path: Path) -> None:
    root, watched = small.make(tmp_path / "project"), tmp_path / "labels"
    (watched / "preferences").mkdir(parents=True)
    (watched / "preferences" / "one.jsonl").write_text("good")
    (watched / "preferences" / ".two.jsonl").write_text("half wri")
    assert retrain_data.bring(root, [str(watched)]) == ["preferences/one.jsonl"]
    assert retrain_data.bring(root, [str(watched)]) == []
    (watched / "preferences" / "one.jsonl").unlink()
    assert retrain_data.bring(root, [str(watched)]) == []
    assert (root / "data/inbox/preferences/one.jsonl").read_text() == "good"
    with pytest.raises(PreflowError, match="the watched folder is not there"):
        retrain_data.bring(root, [str(tmp_path / "away")])
