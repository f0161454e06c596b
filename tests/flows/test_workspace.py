"""A run's commit: what is in it, what is not, and that the user sees nothing of it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows import workspace, worktrees
from rlhf.errors import PreflowError
from tests.flows.toy import git

SECRET = "hf_" + "a1B2" * 6


def seen(root: Path) -> tuple[str, str, bytes, str]:
    """What a user can notice: status, branch, index, refs other than ours."""
    index = (root / ".git" / "index").read_bytes()
    return git(root, "status", "--porcelain"), git(root, "log", "--oneline", "HEAD"), index, git(root, "branch", "-a")


@pytest.fixture
def dirty(toy: Path) -> Path:
    """Changed, staged, new, deleted, secret and ignored files, and hooks that would be noticed."""
    (toy / "flows").mkdir()
    (toy / "tasks").mkdir()
    (toy / "flows" / "new.py").write_text("x = 1\n")
    (toy / "tasks" / "staged.py").write_text("y = 1\n")
    git(toy, "add", "tasks/staged.py")
    (toy / "tasks" / "staged.py").write_text("y = 2\n")
    (toy / "params.yaml").write_text("seed: 5\n")
    (toy / "stage.py").unlink()
    (toy / "flows" / "token.py").write_text(f"TOKEN = '{SECRET}'\n")
    (toy / "tasks" / ".env").write_text("A=1\n")
    (toy / "notes.txt").write_text("mine\n")
    (toy / ".preflow").mkdir(exist_ok=True)
    for hook in ("pre-commit", "post-commit", "reference-transaction", "post-checkout", "post-index-change"):
        path = toy / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\ntouch hook-ran\n")
        path.chmod(0o755)
    return toy


def test_a_snapshot_holds_the_work_and_no_secret_and_leaves_no_trace(
    dirty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading the status refreshes the index and runs its hook: once before, so that it is settled.
    seen(dirty)
    (dirty / "hook-ran").unlink(missing_ok=True)
    before = seen(dirty)
    (dirty / "hook-ran").unlink(missing_ok=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(dirty.parent / "no-user-name"))  # a file: git may rename over it
    taken = workspace.snapshot(dirty, "r1", "preflow run r1 []", extra={"dvc.lock": b"lock\n"})
    assert not (dirty / "hook-ran").exists()
    assert taken.ref == "refs/preflow/runs/r1"
    assert taken.left_out == ("flows/token.py", "tasks/.env")
    files = git(dirty, "ls-tree", "-r", "--name-only", taken.ref).split()
    assert {"flows/new.py", "tasks/staged.py", "params.yaml", "dvc.yaml", "dvc.lock"} <= set(files)
    assert not {"flows/token.py", "tasks/.env", "stage.py", "notes.txt"} & set(files)
    assert git(dirty, "show", f"{taken.ref}:tasks/staged.py") == "y = 2\n"
    assert git(dirty, "show", f"{taken.ref}:params.yaml") == "seed: 5\n"
    assert git(dirty, "log", "-1", "--format=%an %P", taken.ref) == f"preflow {git(dirty, 'rev-parse', 'HEAD')}"
    (dirty / "hook-ran").unlink(missing_ok=True)
    assert seen(dirty) == before


def test_a_changed_tracked_file_with_a_secret_stays_as_it_was(toy: Path) -> None:
    (toy / "stage.py").write_text(f"KEY = '{SECRET}'\n")
    taken = workspace.snapshot(toy, "r1", "preflow run r1 []")
    assert taken.left_out == ("stage.py",)
    assert SECRET not in git(toy, "show", f"{taken.ref}:stage.py")


def test_the_last_commit_of_a_run_adds_to_its_first(toy: Path) -> None:
    (toy / "params.yaml").write_text("seed: 5\n")
    first = workspace.snapshot(toy, "r1", "preflow run r1 [a=1]")
    (toy / "params.yaml").write_text("seed: 6\n")  # edited while the run went on: not what it ran with
    extra = {"dvc.lock": b"x", ".gitignore": None}
    last = workspace.snapshot(toy, "r1", "preflow run r1 [a=1]", base=first.commit, parent=first.commit, extra=extra)
    assert git(toy, "show", f"{last.ref}:params.yaml") == "seed: 5\n"
    assert git(toy, "show", f"{last.ref}:dvc.lock") == "x"
    assert ".gitignore" not in git(toy, "ls-tree", "--name-only", last.ref).split()
    assert git(toy, "rev-list", "--count", last.ref).strip() == "3"
    workspace.snapshot(toy, "r2", "preflow run r2 []")
    assert workspace.runs(toy, "a=1") == [last.commit]


def test_edits_since_a_snapshot_are_named(toy: Path) -> None:
    (toy / "tasks").mkdir()
    (toy / "tasks" / "kept_out.py").write_text(f"KEY = '{SECRET}'\n")
    (toy / "tasks" / "mine.py").write_text("x = 1\n")
    taken = workspace.snapshot(toy, "r1", "preflow run r1 []")
    assert workspace.edited(toy, "r1", taken) == []
    (toy / "params.yaml").write_text("seed: 6\n")
    (toy / "tasks" / "mine.py").unlink()
    (toy / "tasks" / "new.py").write_text("y = 1\n")
    assert workspace.edited(toy, "r1", taken) == ["params.yaml", "tasks/mine.py", "tasks/new.py"]


def test_no_secret_enters_by_another_door(toy: Path) -> None:
    extra = {"params.yaml": f"token: {SECRET}\n".encode()}
    taken = workspace.snapshot(toy, "r1", f"preflow run r1 [a={SECRET}]", extra=extra)
    assert taken.left_out == ("params.yaml",)
    assert SECRET not in git(toy, "show", "-s", "--format=%B", taken.ref) + git(toy, "show", f"{taken.ref}:params.yaml")


def test_worktrees_of_the_user_are_left_alone(toy: Path) -> None:
    away, theirs = toy.parent / "away", toy.parent / "theirs"
    git(toy, "worktree", "add", "-q", "--detach", str(theirs))
    theirs.rename(away)  # as on a disk that is not mounted
    ours = worktrees.add(toy, "r1", "HEAD", with_inbox=True)
    lost = worktrees.add(toy, "r2", "HEAD", with_inbox=True)
    shutil.rmtree(lost)
    worktrees.sweep(toy)
    assert not ours.exists()
    listed = git(toy, "worktree", "list")
    assert str(theirs) in listed
    assert ".preflow" not in listed
    with pytest.raises(PreflowError, match="left alone"):
        worktrees.remove(toy, away)


def test_the_inbox_comes_along_as_copies_and_links_are_followed(toy: Path) -> None:
    inbox, elsewhere = toy / "data" / "inbox", toy / "data" / "elsewhere.json"
    inbox.mkdir(parents=True)
    elsewhere.write_text("linked")
    (inbox / "link.json").symlink_to("../elsewhere.json")
    (inbox / "dangling.json").symlink_to("nowhere")
    (inbox / "mine.json").write_text("mine")
    (inbox / "brought.json").write_text("brought")
    (inbox / "sources.json").write_text(json.dumps([{"files": {"brought.json": "0"}}]))
    there = worktrees.add(toy, "r1", "HEAD", with_inbox=True) / "data" / "inbox"
    assert (there / "link.json").read_text() == "linked"
    assert not (there / "link.json").is_symlink()
    assert not (there / "mine.json").samefile(inbox / "mine.json")
    assert (there / "brought.json").samefile(inbox / "brought.json")


def test_a_checkout_of_another_user_is_named_as_such(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(toy.parent / "nothing-trusted"))
    with pytest.raises(PreflowError, match=rf"git config --global --add safe\.directory {toy}$"):
        workspace.find_root(toy)


def test_each_unusable_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match="is in no git checkout"):
        workspace.find_root(tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(PreflowError, match="has no commit yet"):
        workspace.find_root(tmp_path)
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "a")
    with pytest.raises(PreflowError, match=r"has no dvc\.yaml"):
        workspace.find_root(tmp_path)


def test_files_of_many_commits_are_read_by_few_processes(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also bytes that are no text; what a commit lacks is not what the repository has lost."""
    both = {"dvc.lock": b"one\n", "params.yaml": b"seed: 1\n"}
    files = [both, {}, {"dvc.lock": b"\xff\r\n\n"}, {"dvc.lock": b"lost"}]
    commits = [workspace.commit_on(toy, ["HEAD"], each, "a run") for each in files]
    lost = git(toy, "rev-parse", f"{commits[3]}:dvc.lock").strip()
    (toy / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    asked: list[str] = []
    whole = workspace.git

    def noted(root: Path, *words: str, **more: Any) -> str:
        asked.append(words[0])
        return whole(root, *words, **more)

    monkeypatch.setattr(workspace, "AT_ONCE", 2)
    monkeypatch.setattr(workspace, "git", noted)
    *found, broken = workspace.files_at(toy, commits, ["dvc.lock", "params.yaml"])
    read = [{path: content for path, (_, content) in one.items()} for one in found if not isinstance(one, PreflowError)]
    plain = (toy / "params.yaml").read_bytes()
    assert read == [{"params.yaml": plain} | each for each in files[:3]]
    assert isinstance(broken, PreflowError) and "dvc.lock" in str(broken)
    assert asked.count("cat-file") == 2
