"""A run's commit: what is in it, what is not, and that the user sees nothing of it."""

import os
import subprocess
from pathlib import Path

import pytest

from flows import workspace
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
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no user.name"))  # a file: git may rename over it
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
    last = workspace.snapshot(toy, "r1", "preflow run r1 [a=1]", base=first.commit, extra=extra)
    assert git(toy, "show", f"{last.ref}:params.yaml") == "seed: 5\n"
    assert git(toy, "show", f"{last.ref}:dvc.lock") == "x"
    assert ".gitignore" not in git(toy, "ls-tree", "--name-only", last.ref).split()
    assert git(toy, "rev-list", "--count", last.ref).strip() == "2"
    workspace.snapshot(toy, "r2", "preflow run r2 []")
    assert workspace.runs(toy, "a=1") == [last.commit]


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
