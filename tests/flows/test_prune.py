"""`preflow prune`: which runs go, and that what any other needs stays."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import dvc, guards, objects, workspace
from flows import prune as work
from flows.cache import object_path
from flows.cli import app
from flows.objects import told_size, whole
from flows.prune import seconds
from rlhf.errors import Busy, PreflowError
from tests.flows.archive import Archive
from tests.flows.rows_toy import outs
from tests.flows.toy import git

OLD, PROMOTED, SWEPT, MINE = (f"2026110{day}-120000-aaaa" for day in range(1, 5))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Four runs: one by itself, the champion's, one with a setting, and that of the checkout."""
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME"):
        monkeypatch.delenv(name, raising=False)
    made = Archive(tmp_path / "project")
    monkeypatch.chdir(made.root)
    monkeypatch.setattr(dvc, "cache", lambda _: made.cache)
    made.run(OLD, made.lock(outs(), also="old"))
    made.promote(PROMOTED, made.run(PROMOTED, made.lock(outs())), 1)
    made.run(SWEPT, made.lock(outs("ada"), also="swept"), label="polite seed=1")
    made.run(MINE, made.lock(outs("ben"), also="mine"))
    (made.root / "dvc.lock").write_text(made.lock(outs("ben"), also="mine"))
    return made


def prune(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["prune", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refs(archive: Archive) -> set[str]:
    return set(git(archive.root, "for-each-ref", "--format=%(refname)", "refs/preflow").split())


def objects_of(archive: Archive, lock: str) -> set[str]:
    """Files and folders in the cache that a lock names."""
    words = lock.replace("'", " ").split()
    return whole(archive.cache, {word for before, word in pairwise(words) if before == "md5:"})


def is_there(archive: Archive, md5s: set[str]) -> set[str]:
    return {md5 for md5 in md5s if object_path(archive.cache, md5)}


def test_old_runs_go_and_nothing_that_is_needed(archive: Archive) -> None:
    locks = {
        OLD: archive.lock(outs(), also="old"),
        PROMOTED: archive.lock(outs()),
        SWEPT: archive.lock(outs("ada"), also="swept"),
        MINE: archive.lock(outs("ben"), also="mine"),
    }
    named = {run: objects_of(archive, lock) for run, lock in locks.items()}
    alone = (named[OLD] | named[SWEPT]) - named[PROMOTED] - named[MINE]
    assert len(alone) > 20  # models of theirs, and the data without ada
    planned = prune("--keep", "0", "--dry-run")
    assert [one["run"] for one in planned["runs"]] == [OLD, SWEPT]
    assert planned["kept"] == {
        PROMOTED: "policy v1 was made by it, the champion",
        MINE: "the checkout has its dvc.lock",
    }
    assert planned["objects"] == len(alone)
    assert is_there(archive, alone) == alone
    assert prune("--keep", "0", "--yes")["bytes"] == planned["bytes"] > 0
    assert is_there(archive, alone) == set()
    for run in (PROMOTED, MINE):
        assert is_there(archive, named[run]) == named[run]
    heads = ("refs/preflow/policy/champion", "refs/preflow/policy/v1")
    assert refs(archive) == {*heads, f"refs/preflow/runs/{PROMOTED}", f"refs/preflow/runs/{MINE}"}


def test_what_a_branch_or_tag_ever_named_stays(archive: Archive) -> None:
    lock = archive.lock(outs(), also="old")
    (archive.root / "dvc.lock").write_text(lock)
    git(archive.root, "add", "-f", "dvc.lock")
    git(archive.root, "commit", "-q", "-m", "mine")
    git(archive.root, "rm", "-q", "--cached", "dvc.lock")
    git(archive.root, "commit", "-q", "-m", "no longer")
    (archive.root / "dvc.lock").unlink()
    assert [one["run"] for one in prune("--keep", "0", "--yes")["runs"]] == [OLD, SWEPT, MINE]
    kept = objects_of(archive, lock)
    assert is_there(archive, kept) == kept


def test_by_number_profile_and_age(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(*words: str) -> list[str]:
        return [one["run"] for one in prune(*words, "--dry-run")["runs"]]

    assert runs("--keep", "3") == [OLD]
    assert runs("--keep", "9") == []
    assert runs("--older-than", "1h") == []
    with monkeypatch.context() as later:
        later.setattr("flows.prune.time.time", lambda: 4e9)
        assert runs("--older-than", "4w") == [OLD, SWEPT]
    assert runs("--keep", "0", "--profile", "polite") == [SWEPT]
    for number, label in enumerate(("seed=1", "compare ppo seed=1", "withdraw 3 rows")):
        archive.run(f"2026110{6 + number}-120000-aaaa", archive.lock(outs(), also=label), label=label)
    none = [f"2026110{6 + number}-120000-aaaa" for number in range(3)]
    assert runs("--keep", "0", "--profile", "") == [OLD, *none]
    assert (seconds("12h"), seconds("30d"), seconds("2w")) == (43200, 2592000, 1209600)


def test_folders_of_runs_go_but_not_what_mlflow_has_not_heard(archive: Archive) -> None:
    home = archive.root / ".preflow"
    for run in (OLD, SWEPT, MINE):
        (home / "journal" / run).mkdir(parents=True)
    (home / "journal" / OLD / "shipped").touch()
    (home / "worktrees" / SWEPT).mkdir(parents=True)
    prune("--keep", "0", "--yes")
    assert sorted(os.listdir(home / "journal")) == [SWEPT, MINE]
    assert not (home / "worktrees" / SWEPT).exists()


def test_a_cache_that_others_share_is_left_alone(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "cache", lambda _: archive.root.parent / "shared")
    found = prune("--keep", "0", "--yes")
    assert (len(found["runs"]), found["objects"]) == (2, 0)
    assert "lies outside of this checkout" in found["note"]


def test_it_asks_and_waits(archive: Archive) -> None:
    before = refs(archive)
    with pytest.raises(PreflowError, match="give --yes"):
        CliRunner().invoke(app, ["prune", "--keep", "0"], catch_exceptions=False)
    with guards.held(archive.root / ".preflow/run.lock", "run r9"), pytest.raises(Busy, match="run r9"):
        CliRunner().invoke(app, ["prune", "--keep", "0", "--yes"], catch_exceptions=False)
    for words in ([], ["--keep", "1", "--older-than", "1d"], ["--older-than", "month"]):
        with pytest.raises(PreflowError, match="older-than"):
            CliRunner().invoke(app, ["prune", *words], catch_exceptions=False)
    assert refs(archive) == before


def test_sizes_for_people() -> None:
    assert [told_size(size) for size in (7, 1500, 2_500_000, 3e9)] == ["7 bytes", "1.5 kB", "2.5 MB", "3.0 GB"]


def torn(archive: Archive, name: str, **files: bytes) -> None:
    """A run's ref with files that nobody can read."""
    extra = {path.replace("_", "."): content for path, content in files.items()}
    workspace.snapshot(archive.root, name, f"preflow run {name} []", extra=extra)


def test_a_run_whose_graph_is_past_reading_keeps_its_data(archive: Archive) -> None:
    lock = archive.lock(outs(), also="old")
    torn(archive, "20261105-120000-aaaa", dvc_yaml=b"stages: [nobody knows", dvc_lock=lock.encode())
    assert [one["run"] for one in prune("--keep", "0", "--yes")["runs"]] == [OLD, SWEPT]
    kept = objects_of(archive, lock)
    assert is_there(archive, kept) == kept


@pytest.mark.parametrize("space", ["preflow/runs", "preflow-remote/runs", "preflow-remote/policy"])
def test_a_lock_that_cannot_be_read_stops_all(archive: Archive, space: str) -> None:
    torn(archive, "20261105-120000-aaaa", dvc_lock=b"stages: {sft: [")
    git(archive.root, "update-ref", f"refs/{space}/v9", "refs/preflow/runs/20261105-120000-aaaa")
    if "runs" not in space or "remote" in space:
        git(archive.root, "update-ref", "-d", "refs/preflow/runs/20261105-120000-aaaa")
    before = refs(archive)
    with pytest.raises(PreflowError, match=rf"refs/preflow\S*/({space.rsplit('/', 1)[1]}|runs)/\S+"):
        CliRunner().invoke(app, ["prune", "--keep", "0", "--yes"], catch_exceptions=False)
    assert refs(archive) == before


def test_what_came_between_the_question_and_the_answer_stays(archive: Archive) -> None:
    shown = work.plan(archive.root, "", 0, None, lambda _: None)
    assert [run.name for run in shown.runs] == [OLD, SWEPT]
    lock = archive.lock(outs(), also="old")
    late = "20261106-120000-aaaa"
    archive.run(late, lock)
    archive.promote(SWEPT, git(archive.root, "rev-parse", f"refs/preflow/runs/{SWEPT}").strip(), 2)
    done, _ = work.carry_out(archive.root, shown)
    assert [run.name for run in done.runs] == [OLD]
    kept = objects_of(archive, lock) | objects_of(archive, archive.lock(outs("ada"), also="swept"))
    assert is_there(archive, kept) == kept
    assert {f"refs/preflow/runs/{late}", f"refs/preflow/runs/{SWEPT}"} <= refs(archive)


def test_no_run_begins_while_data_goes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = work.plan(archive.root, "", 0, None, lambda _: None)
    lock = archive.root / ".preflow/run.lock"
    seen = []
    monkeypatch.setattr(objects, "remove", lambda *_: seen.append(guards.is_held(lock)))
    with guards.held(archive.root / ".preflow/worktrees/r2.lock", "run r2"), pytest.raises(Busy, match="run r2"):
        work.carry_out(archive.root, shown)
    assert seen == []
    work.carry_out(archive.root, shown)
    assert seen == [True]


def test_a_run_that_the_git_remote_has_too_counts_once_and_goes(archive: Archive) -> None:
    for run in (OLD, SWEPT, MINE):
        git(archive.root, "update-ref", f"refs/preflow-remote/runs/{run}", f"refs/preflow/runs/{run}")
    alone = objects_of(archive, archive.lock(outs("ada"), also="swept")) - objects_of(archive, archive.lock(outs()))
    alone -= objects_of(archive, archive.lock(outs("ben"), also="mine"))
    assert len(alone) > 10
    assert [one["run"] for one in prune("--keep", "3", "--dry-run")["runs"]] == [OLD]
    assert [one["run"] for one in prune("--keep", "0", "--yes")["runs"]] == [OLD, SWEPT]
    assert is_there(archive, alone) == set()
    left = git(archive.root, "for-each-ref", "--format=%(refname)", "refs/preflow-remote").split()
    assert left == [f"refs/preflow-remote/runs/{MINE}"]


def test_a_worktree_protects_its_run_only_while_that_stays(archive: Archive) -> None:
    lock = archive.lock(outs("ada"), also="swept")
    tree = archive.root / ".preflow/worktrees" / SWEPT
    git(archive.root, "worktree", "add", "-q", "--detach", str(tree))
    (tree / "dvc.lock").write_text(lock)
    alone = objects_of(archive, lock) - objects_of(archive, archive.lock(outs()))
    alone -= objects_of(archive, archive.lock(outs("ben"), also="mine"))
    prune("--keep", "2", "--yes")
    assert is_there(archive, alone) == set(alone)
    prune("--keep", "0", "--yes")
    assert is_there(archive, alone) == set()
    assert not tree.exists()


@pytest.mark.parametrize("how", ["a merge that took the other side", "a stash under another"])
def test_history_that_git_would_simplify_counts(archive: Archive, how: str) -> None:
    def keep(text: str) -> None:
        (archive.root / "dvc.lock").write_text(text)
        git(archive.root, "add", "-f", "dvc.lock")

    lock = archive.lock(outs(), also="old")
    keep(archive.lock(outs(), also=""))
    git(archive.root, "commit", "-q", "-m", "ours")
    if how.startswith("a merge"):
        git(archive.root, "checkout", "-q", "-b", "side")
        keep(lock)
        git(archive.root, "commit", "-q", "-m", "theirs")
        git(archive.root, "checkout", "-q", "main")
        git(archive.root, "merge", "-q", "--no-ff", "-s", "ours", "-m", "merge", "side")
        git(archive.root, "branch", "-q", "-D", "side")
    else:
        for text in (lock, archive.lock(outs("ben"), also="mine")):
            keep(text)
            git(archive.root, "stash", "-q")
    assert OLD in [one["run"] for one in prune("--keep", "0", "--yes")["runs"]]
    kept = objects_of(archive, lock)
    assert is_there(archive, kept) == kept
