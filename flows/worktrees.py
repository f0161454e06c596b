"""Worktrees: where runs with a profile or settings work, so that the user's own tree is never touched."""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from flows import dvc
from flows.workspace import git
from rlhf.errors import PreflowError
from tasks.journal import home


def add(root: Path, run: str, commit: str, with_inbox: bool) -> Path:
    """A checkout of `commit` under `.preflow/worktrees/<run>` that shares the DVC cache and remotes of `root`.

    `with_inbox` brings what lies in data/inbox along; a profile with sources of its own begins with an empty one.
    """
    tree = home(root) / "worktrees" / run
    tree.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "prune")
    git(root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
    _share_dvc(root, tree)
    if (root / "data" / "champion").is_dir():
        shutil.copytree(root / "data" / "champion", tree / "data" / "champion", dirs_exist_ok=True)
    if with_inbox and (root / "data" / "inbox").is_dir():
        inbox = Path("data", "inbox")
        shutil.copytree(root / inbox, tree / inbox, dirs_exist_ok=True, copy_function=_link_or_copy)
    return tree


def seed(tree: Path, files: Mapping[str, bytes | None]) -> None:
    """Start from these files (None: from none), among them dvc.lock, and from the outputs that it names.

    What the cache does not have shows in `dvc status` and is made again.
    """
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
    if files.get("dvc.lock"):
        dvc.call(tree, "checkout", "--force", "--quiet")


def remove(root: Path, tree: Path) -> None:
    """Take a worktree away; its run stays as a ref."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.with_suffix(".lock").unlink(missing_ok=True)
    git(root, "worktree", "prune")


def mark_kept(tree: Path) -> None:
    """Have `sweep` leave it."""
    tree.with_suffix(".keep").touch()


def sweep(root: Path) -> None:
    """Remove the worktrees of earlier runs that failed or died; those that were to be kept stay."""
    folder = home(root) / "worktrees"
    for tree in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not tree.is_dir() or tree.with_suffix(".keep").exists():
            continue
        with tree.with_suffix(".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its run is going on
            remove(root, tree)


def _share_dvc(root: Path, tree: Path) -> None:
    """DVC's local configuration: that of the main checkout, credentials too, with its cache by full path."""
    local = root / ".dvc" / "config.local"
    text = local.read_text(encoding="utf-8") if local.exists() else ""
    (tree / ".dvc").mkdir(exist_ok=True)
    (tree / ".dvc" / "config.local").write_text(text, encoding="utf-8")
    (tree / ".dvc" / "config.local").chmod(0o600)
    cache = dvc.cache(root)
    cache.mkdir(parents=True, exist_ok=True)
    done = dvc.call(tree, "cache", "dir", "--local", str(cache))
    if done.returncode != 0:
        raise PreflowError(f"the worktree cannot use the cache {cache}: {done.stderr.strip()}")


def _link_or_copy(source: str, target: str) -> str:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
