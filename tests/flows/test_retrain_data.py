"""Watched folders, and the user's own files in the inbox."""

from pathlib import Path

import pytest

from flows.retrain import data
from rlhf.errors import PreflowError


def test_a_file_that_was_not_brought_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    root, shard = tmp_path / "project", tmp_path / "watched" / "preferences" / "a.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("theirs")
    target = root / "data" / "inbox" / "preferences" / "a.jsonl"
    assert data.bring(root, ["~/watched"]) == ["preferences/a.jsonl"]
    shard.write_text("theirs, longer")
    assert data.bring(root, ["~/watched"]) == ["preferences/a.jsonl"]
    target.write_text("mine")
    with pytest.raises(PreflowError, match=r"watched/preferences/a.jsonl would overwrite .*inbox/preferences/a.jsonl"):
        data.bring(root, ["~/watched"])
    assert target.read_text() == "mine"
