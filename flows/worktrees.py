"""Worktrees: where runs with a profile or settings work, so that the user's own tree is never touched."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path

from flows import dvc, guards
from flows.workspace import git
from rlhf.errors import PreflowError
from tasks.journal import home

_ABOUT_TO_BEGIN = 3600.0  # seconds in which a lock without a worktree may be that of a run which is making one


def add(
    root: Path,
    run: str,
    commit: str,
    with_inbox: bool,
    replaced: Collection[str] = (),
    cache: Path | None = None,
    with_champion: bool = True,
) -> Path:
    """A checkout of `commit` under `.preflow/worktrees/<run>` that shares the DVC cache and remotes of `root`.

    `with_inbox` brings what lies in data/inbox along, without what is `replaced` there; a profile with sources of its
    own begins with an empty one. `with_champion` has data/champion as it is in `root`, not as `commit` has it. Who
    knows where the DVC cache is says so, which saves the second that DVC needs to tell.
    """
    tree = home(root) / "worktrees" / run
    tree.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
    _share_dvc(root, tree, cache or dvc.cache(root))
    if with_champion and (root / "data" / "champion").is_dir():
        shutil.copytree(root / "data" / "champion", tree / "data" / "champion", dirs_exist_ok=True)
    if with_inbox and (root / "data" / "inbox").is_dir():
        inbox = Path("data", "inbox")
        _copy_inbox(root / inbox, tree / inbox, replaced)
    return tree


@contextmanager
def checkout(
    root: Path,
    name: str,
    commit: str,
    *,
    cache: Path | None = None,
    with_champion: bool = True,
    keep: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """`add` for one command alone; gone afterwards unless it is to be kept. One that was killed makes room.

    Raises:
        Busy: another command is at work in it.
    """
    tree = home(root) / "worktrees" / name
    with guards.held(tree.with_suffix(".lock"), name):
        _clear(root, tree)
        try:
            yield add(root, name, commit, with_inbox=False, with_champion=with_champion, cache=cache)
        finally:
            if keep():
                mark_kept(tree)
            else:
                remove(root, tree)


def seed(tree: Path, files: Mapping[str, bytes | None]) -> bool:
    """Start from these files (None: from none), among them dvc.lock, and from the outputs that it names.

    What the cache does not have shows in `dvc status` and is made again; False says that something is missing.
    """
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
    return not files.get("dvc.lock") or dvc.call(tree, "checkout", "--force", "--quiet").returncode == 0


def remove(root: Path, tree: Path) -> None:
    """Take a worktree of ours away; its run stays as a ref. Those of the user, on a disk that is away too, stay."""
    if tree.parent != home(root) / "worktrees":
        raise PreflowError(f"{tree} is no worktree of a run, so it is left alone")
    _clear(root, tree)
    tree.with_suffix(".lock").unlink(missing_ok=True)


def _clear(root: Path, tree: Path) -> None:
    with suppress(PreflowError):  # it never became one, or somebody has removed it
        git(root, "worktree", "remove", "--force", "--force", str(tree))
    shutil.rmtree(tree, ignore_errors=True)


def mark_kept(tree: Path) -> None:
    """Have `sweep` leave it."""
    tree.with_suffix(".keep").touch()


def sweep(root: Path) -> None:
    """Remove the worktrees of earlier runs that failed or died; those that were to be kept stay."""
    folder = home(root) / "worktrees"
    _forget_missing(root, folder)
    for tree in abandoned(root):
        with tree.with_suffix(".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its run is going on
            remove(root, tree)
    for mark in [*folder.glob("*.lock"), *folder.glob("*.keep")]:  # of worktrees that somebody has removed
        if not mark.with_suffix("").is_dir() and time.time() - mark.stat().st_mtime > _ABOUT_TO_BEGIN:
            mark.unlink(missing_ok=True)


def abandoned(root: Path) -> list[Path]:
    """Worktrees of earlier runs that are over and were not to be kept."""
    folder = home(root) / "worktrees"
    trees = sorted(folder.iterdir()) if folder.is_dir() else []
    return [tree for tree in trees if tree.is_dir() and not tree.with_suffix(".keep").exists() and not _at_work(tree)]


def _at_work(tree: Path) -> bool:
    lock = tree.with_suffix(".lock")
    return lock.exists() and guards.is_held(lock)


def _forget_missing(root: Path, folder: Path) -> None:
    """Of our worktrees only: one of the user's that is missing may lie on a disk that is away."""
    for line in git(root, "worktree", "list", "--porcelain").splitlines():
        tree = Path(line.removeprefix("worktree "))
        if line.startswith("worktree ") and tree.parent == folder and not tree.exists():
            remove(root, tree)


def _share_dvc(root: Path, tree: Path, cache: Path) -> None:
    """DVC's local configuration: that of the main checkout, credentials too, with its cache by full path.

    Its remotes as well, which are the ones of today: those of an old commit may have moved, or not have been there yet.
    What DVC notes down of a checkout goes with the worktree: its usual place, outside, is never cleared.
    """
    config = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=False)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    for section in config.sections():
        url = config[section].get("url", "").strip("\"'") if "remote " in section else ""
        if url and "://" not in url and not Path(url).is_absolute():  # relative to the folder of its file
            config[section]["url"] = str(root / ".dvc" / url)
    for section, key, value in (("cache", "dir", cache), ("core", "site_cache_dir", tree / ".dvc" / "tmp" / "site")):
        if not config.has_section(section):
            config.add_section(section)
        config[section][key] = str(value)
    (tree / ".dvc").mkdir(exist_ok=True)
    path = tree / ".dvc" / "config.local"
    path.touch(0o600)
    path.chmod(0o600)
    with path.open("w", encoding="utf-8") as file:
        config.write(file)
    cache.mkdir(parents=True, exist_ok=True)


def _copy_inbox(inbox: Path, target: Path, replaced: Collection[str]) -> None:
    """The user's files as copies, since they may be edited meanwhile; those that sources brought as links."""
    listing = inbox / "sources.json"
    entries = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    brought = {str(inbox / name) for entry in entries for name in entry["files"]}

    def bring(source: str, to: str) -> str:
        Path(to).unlink(missing_ok=True)
        try:
            if source not in brought:
                raise OSError
            os.link(Path(source).resolve(), to)
        except OSError:
            shutil.copy2(source, to)  # of a symbolic link, what it points to
        return to

    def left(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name) for name in names}
        return [name for name, path in paths.items() if not path.exists() or str(path.relative_to(inbox)) in replaced]

    shutil.copytree(inbox, target, dirs_exist_ok=True, copy_function=bring, ignore=left)
