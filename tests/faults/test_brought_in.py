"""Folders that a user names and did not make: nothing that leads out of them is read."""

from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from tests.flows.own_data import brought, checkout, settled

ROWS = '{"prompt": "Hi?", "chosen": "yes", "rejected": "no"}\n'


@pytest.mark.faults(
    50,
    injected="a link to a file of the user, in a folder of data and in one of a model that a run is told to read",
    happens="refused, naming the link and where it leads; nothing comes into the inbox",
)
@pytest.mark.parametrize("link", ["set/more.jsonl", "model/tokenizer.json"])
def test_a_link_out_of_a_folder_is_not_followed(link: str, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (tmp_path / "private.json").write_text(ROWS)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/rows.jsonl").write_text(ROWS)
    (tmp_path / link).unlink(missing_ok=True)
    (tmp_path / link).symlink_to("../private.json")
    with pytest.raises(PreflowError, match=r"is a link to .*private\.json, which lies outside of its folder"):
        brought(root, settled(root, "base.model=../model", "collect.preferences=../set"))
    assert not (root / "data/inbox").exists()


def test_links_inside_a_folder_and_those_of_the_hubs_cache_are(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    for kept, name in (("datasets--us--set/blobs/0123", "datasets--us--set/snapshots/abc/rows.jsonl"),
                       ("datasets--us--set/blobs/4567", "datasets--us--set/snapshots/abc/data/more.jsonl"),
                       ("plain/rows.jsonl", "plain/again.jsonl")):  # fmt: skip
        for path in (tmp_path / kept, tmp_path / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text(ROWS)
        (tmp_path / name).symlink_to(tmp_path / kept)
    folders = ["../datasets--us--set/snapshots/abc/data", "../plain"]
    listed = brought(root, settled(root, "base.model=../model", f"collect.preferences=[{','.join(folders)}]"))
    files = sorted(path.name for path in (root / "data/inbox/given/preferences").rglob("*.jsonl"))
    assert files == ["again.jsonl", "more.jsonl", "rows.jsonl"] and len(listed) == 3
