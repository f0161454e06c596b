"""`preflow reproduce` in a fresh clone: restored and hashed, or run again; and what it says when it is not.

Every test begins with git and a DVC remote alone: no cache, no MLflow, nothing of the clone that made it.
"""

import json
import threading
from pathlib import Path

import pytest

from flows import dvc
from flows.releases import releases
from flows.reproduce.reproduce import Answer, Asked, reproduce
from rlhf.errors import PreflowError
from tasks.lineage import read_tree
from tests.flows.again_toy import OUTS, RUN, STAGES, clone_with_remotes, copied, done, lose, make_story, preflow, text
from tests.flows.toy import git

NOWHERE = "http://127.0.0.1:9/api"
"""No Prefect answers here: what goes on without it runs no stage."""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `story` (where it was made), `store` (DVC), `origin.git` and `clone`; policy v1 is the champion."""
    folder = tmp_path_factory.mktemp("again")
    root = make_story(folder / "story")
    commit = done(root, "made")
    about = {"version": 1, "run": RUN, "ref": f"refs/preflow/runs/{RUN}", "candidate": "rl", "path": "data/rl/policy"}
    releases.publish(root, "policy", about, commit)
    releases.crown(root, "policy", 1)
    clone_with_remotes(root, folder)
    return folder


@pytest.fixture
def clone(pushed: Path, tmp_path: Path) -> Path:
    return copied(pushed / "clone", tmp_path / "clone")


@pytest.fixture
def store(pushed: Path, clone: Path, tmp_path: Path) -> Path:
    """A DVC remote of this test alone, which it may damage."""
    (clone / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {tmp_path / 'store'}\n")
    return copied(pushed / "store", tmp_path / "store")


def md5_of(pushed: Path, path: str) -> str:
    return read_tree(pushed / "story").digests()[path]


def again(root: Path, name: str = "policy@champion", **asked: object) -> Answer:
    return reproduce(root, Asked(name, **asked), threading.Event(), print)  # type: ignore[arg-type]


@pytest.fixture
def prefect(api: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PREFECT_API_URL", api)
    return api


def test_restored_byte_for_byte_and_nothing_is_run(clone: Path) -> None:
    before = git(clone, "status", "--porcelain")
    found = preflow(clone, "reproduce", "policy@champion", PREFECT_API_URL=NOWHERE)
    assert (found["verdict"], found["how"], found["name"]) == ("byte-equal", "restored", "policy v1")
    assert [one["path"] for one in found["outs"]] == OUTS
    assert all(one["found"] == one["md5"] for one in found["outs"])
    # It was another checkout that they were restored in, and that is gone.
    assert git(clone, "status", "--porcelain") == before
    assert git(clone, "worktree", "list").count("\n") == 1
    assert not (clone / "data/rl").exists()


@pytest.mark.parametrize("name", ["policy/1", RUN])
def test_by_every_name_that_it_has(clone: Path, name: str) -> None:
    found = again(clone, name, stage="rl")
    assert (found.verdict, [one["path"] for one in found.outs]) == ("byte-equal", OUTS[2:4])


@pytest.mark.faults(
    38,
    injected="an object gone from the DVC remote",
    happens="restoring ends with 1 and names the output and its stage; nothing is run",
)
def test_what_the_remote_has_lost_is_named(clone: Path, store: Path, pushed: Path) -> None:
    lose(store, md5_of(pushed, "data/rl/metrics.json"))
    found = again(clone)
    assert (found.verdict, found.exit_code) == ("missing", 1)
    assert [one["path"] for one in found.outs if one["state"] == "missing"] == ["data/rl/metrics.json"]
    printed = text(clone, "reproduce", "policy", code=1)
    assert "policy v1: not all there (5 of 6 outputs" in printed
    assert "missing: data/rl/metrics.json of rl: neither in the DVC cache nor on a DVC remote" in printed


def test_a_damaged_cache_is_found_out_by_hashing(clone: Path, pushed: Path) -> None:
    """DVC hands out what lies under the name of a digest."""
    again(clone)
    md5 = md5_of(pushed, "data/rl/metrics.json")
    kept = clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept.chmod(0o644)
    kept.write_text(kept.read_text().replace("3", "4"))
    kept.chmod(0o444)
    found = again(clone)
    wrong = [one for one in found.outs if one["state"] != "equal"]
    assert (found.exit_code, [one["path"] for one in wrong]) == (1, ["data/rl/metrics.json"])
    if wrong[0]["state"] == "differs":
        assert str(kept) in wrong[0]["why"]


def test_run_again_from_nothing_it_is_the_same(clone: Path, prefect: str) -> None:
    """The inbox is in no git: it comes back out of the raw data, and every stage runs."""
    found = preflow(clone, "reproduce", "policy@champion", "--rerun", PREFECT_API_URL=prefect)
    assert (found["verdict"], found["how"], found["lock_equal"]) == ("byte-equal", "rerun", True)
    assert found["not_rerun"] == {}
    assert [one["path"] for one in found["outs"]] == OUTS
    # The project's cache has none of what was made, so none of it can be taken for a result later.
    assert not (clone / ".dvc/cache/runs").exists()
    assert git(clone, "worktree", "list").count("\n") == 1


def test_it_says_where_a_rerun_parts_and_on_what_machine(
    clone: Path, prefect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = clone / ".preflow/journal" / RUN / "rl-1"  # of a run from before machine.json was kept
    journal.mkdir(parents=True)
    used = {"device": "cpu", "cpu_capability": "AVX512", "threads": 1}
    (journal / "events.jsonl").write_text(json.dumps({"event": "end", "used": used}) + "\n")
    monkeypatch.setenv("NOISE", "0.25")
    near = again(clone, rerun=True)
    assert (near.verdict, near.exit_code, near.first, near.lock_equal) == ("differs", 1, "rl", False)
    apart = {one["path"]: one for one in near.outs if one["state"] == "differs"}
    assert list(apart) == OUTS[2:]
    assert apart["data/rl/policy"]["files"] == ["data/rl/policy/weights"]
    (reward,) = apart["data/rl/metrics.json"]["metrics"]
    assert (reward["metric"], reward["within"]) == ("reward", True)  # 0.25 of an interval of ± 0.5
    assert near.machine["differ"] == {"cpu_capability": {"then": "AVX512", "now": "AVX2", "stages": ["rl"]}}
    printed = text(clone, "reproduce", "policy", "--rerun", code=1, NOISE="0.75", CPU="AVX512")
    assert "policy v1: differs, run again; first in rl (2 of 6 outputs of 4 stages" in printed
    assert "outside: reward" in printed
    assert "instruction set: " not in printed


@pytest.mark.slow
def test_what_cannot_be_had_is_restored_and_the_rerun_is_of_the_rest(clone: Path, pushed: Path, prefect: str) -> None:
    """An inbox that not even the raw data tell of: here they say that it came from elsewhere."""
    tree = copied(pushed / "story", clone.parent / "other")
    program = (tree / "collect.py").read_text().replace("inbox/preferences/{shard.name}", "hub.example/{shard.name}")
    (tree / "collect.py").write_text(program)
    git(tree, "commit", "-q", "-a", "-m", "from elsewhere")
    done(tree, "elsewhere")
    for row in (tree / "data/inbox/preferences").iterdir():
        row.unlink()
    found = again(tree, "elsewhere", rerun=True)
    assert found.not_rerun == {"collect": ["data/inbox"]}
    assert (found.verdict, found.lock_equal, [one["path"] for one in found.outs]) == ("byte-equal", None, OUTS[1:])


@pytest.mark.slow
def test_one_stage_again(clone: Path, prefect: str) -> None:
    found = again(clone, rerun=True, stage="rl", keep=True)
    assert (found.verdict, [one["path"] for one in found.outs]) == ("byte-equal", OUTS[2:4])
    kept = Path(found.worktree)
    assert (kept / "data/rl/policy/weights").read_text() == "2.5"
    assert not (kept / "data/eval").exists()
    again(clone, rerun=True, stage="rl")  # the kept one makes room
    assert not kept.exists()


@pytest.mark.slow
def test_a_rerun_that_fails_ends_with_the_code_of_the_stage(clone: Path, prefect: str) -> None:
    answer = json.loads(text(clone, "reproduce", "policy", "--rerun", "--json", code=1, NOISE="not a number"))
    assert (answer["verdict"], answer["exit_code"]) == ("failed", 1)
    assert answer["reason"].startswith("rl: ")
    assert Path(answer["worktree"]).is_dir()


def test_refusals_are_said_before_anything_runs(clone: Path) -> None:
    with pytest.raises(PreflowError, match="policy has the versions 1"):
        again(clone, "policy/7")
    with pytest.raises(PreflowError, match=r"has no result of any stage: no dvc\.lock"):
        again(clone, "HEAD")
    with pytest.raises(PreflowError, match=f"--stage sft: policy v1 has the stages {', '.join(STAGES)}"):
        again(clone, stage="sft")


@pytest.mark.slow
def test_other_package_versions_are_refused(clone: Path, pushed: Path) -> None:
    tree = copied(pushed / "story", clone.parent / "other")
    (tree / "environment.json").write_text('{"numpy": "0.0.1"}')
    done(tree, "old")
    with pytest.raises(PreflowError, match=r"instead of 0\.0\.1"):
        again(tree, "old", rerun=True)
    assert again(tree, "old").verdict == "byte-equal"  # to restore, it is no matter what is installed
    assert dvc.status(tree) == {}
