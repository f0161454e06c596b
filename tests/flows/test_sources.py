import hashlib
import json
import subprocess

import pytest

from flows import worktrees
from flows.sources import bring, shared_folder, tree_sha256
from rlhf.errors import PreflowError
from tasks.config import ConfigError, read_yaml
from tasks.config.sources import Source


def source(sha256, path="data/pairs.json", target="polite/pairs.json"):
    about = {"name": "pairs", "origin": "github.com/a/b c/pairs.json", "revision": "1f", "licence": "MIT"}
    return Source(sha256=sha256, path=path, target=target, **about)


@pytest.fixture
def shared_copy(tmp_path):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "pairs.json").write_bytes(b"[]")
    return tmp_path / "shared"


def test_a_file_is_brought_in_and_listed(tmp_path, shared_copy):
    sha256 = hashlib.sha256(b"[]").hexdigest()
    for _ in range(2):  # the second time everything is there already
        bring([source(sha256)], tmp_path / "inbox", shared_copy)
    assert (tmp_path / "inbox" / "polite" / "pairs.json").read_bytes() == b"[]"
    (listed,) = json.loads((tmp_path / "inbox" / "sources.json").read_text())
    assert listed["files"] == {"polite/pairs.json": sha256}
    assert (listed["name"], listed["licence"], listed["revision"]) == ("pairs", "MIT", "1f")
    bring([], tmp_path / "inbox", shared_copy)
    assert not (tmp_path / "inbox" / "sources.json").exists()


def test_a_damaged_copy_in_the_inbox_is_mended(tmp_path, shared_copy):
    target = tmp_path / "inbox" / "polite" / "pairs.json"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"[1]")
    bring([source(hashlib.sha256(b"[]").hexdigest())], tmp_path / "inbox", shared_copy)
    assert target.read_bytes() == b"[]"


def test_a_folder_has_the_digest_that_sha256sum_gives(tmp_path):
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "b").write_bytes(b"1")
    (model / "sub" / "a").write_bytes(b"2")
    command = "sha256sum b sub/a | sha256sum"
    expected = subprocess.run(command, shell=True, cwd=model, capture_output=True, text=True, check=True).stdout[:64]
    assert tree_sha256(model) == expected
    bring([source(expected, path="model", target="checkpoint")], tmp_path / "inbox", tmp_path)
    assert (tmp_path / "inbox" / "checkpoint" / "sub" / "a").read_bytes() == b"2"


def test_absence_says_where_it_is_published_and_what_to_set(tmp_path, shared_copy):
    with pytest.raises(PreflowError, match=r"(?s)github\.com/a/b.*PREFLOW_SHARED.*data/none\.json"):
        bring([source("0" * 64, path="data/none.json")], tmp_path / "inbox", shared_copy)


def test_another_version_is_refused(tmp_path, shared_copy):
    with pytest.raises(PreflowError, match="another version"):
        bring([source("0" * 64)], tmp_path / "inbox", shared_copy)
    assert not (tmp_path / "inbox" / "polite").exists()


@pytest.mark.faults(50, injected="a source whose target is `../` or absolute", happens="refused by the configuration")
@pytest.mark.parametrize("target", ["/etc/x", "../x", "a/../../x", ""])
def test_a_source_stays_inside_the_inbox(target):
    with pytest.raises(ConfigError, match="target"):
        Source.parse(source("0" * 64).model_dump() | {"target": target}, "sources.0")


def test_the_folder_beside_the_checkout_is_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFLOW_SHARED", raising=False)
    assert shared_folder(tmp_path / "preflow") == tmp_path / "shared"
    monkeypatch.setenv("PREFLOW_SHARED", "/elsewhere")
    assert str(shared_folder(tmp_path / "preflow")) == "/elsewhere"


def test_the_polite_profile_names_what_is_there(tmp_path, shared, pytestconfig):
    values = read_yaml(pytestconfig.rootpath / "profiles" / "polite.yaml")
    bring([Source.parse(value, "sources") for value in values["sources"]], tmp_path / "inbox", shared)
    assert (tmp_path / "inbox" / "checkpoint" / "config.json").is_file()
    assert (tmp_path / "inbox" / values["collect"]["inputs"][0]["file"]).is_file()


def test_a_worktree_begins_without_what_its_sources_replace(tmp_path):
    inbox = tmp_path / "inbox"
    for name in ("checkpoint/config.json", "preferences/mine.jsonl"):
        (inbox / name).parent.mkdir(parents=True)
        (inbox / name).write_text("{}")
    worktrees._copy_inbox(inbox, tmp_path / "tree", ["checkpoint"])
    found = [path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*.json*")]
    assert found == ["preferences/mine.jsonl"]
