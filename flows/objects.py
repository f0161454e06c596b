"""Objects of the DVC cache as things to keep or to remove: what locks need of them, and what they weigh."""

import fcntl
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ruamel.yaml import YAML

from flows import dvc
from flows.cache import files_of, object_path
from flows.workspace import git
from rlhf.errors import Busy, PreflowError
from tasks.journal import home

_REMOTE = re.compile(r"(\S+)\s+(.+?)(?:\s+\(default\))?")


def refuse_if_busy(root: Path) -> None:
    """Raises Busy where a run is going on in this checkout or in a worktree of its own."""
    for lock in [home(root) / "run.lock", *sorted((home(root) / "worktrees").glob("*.lock"))]:
        if lock.exists() and is_held(lock):
            holder = lock.read_text(encoding="utf-8").strip() or lock.stem
            raise Busy(f"{holder} is going on; wait for it, or end it with Ctrl-C there")


def is_held(lock: Path) -> bool:
    """Whether some process holds this lock."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def whole(cache: Path, md5s: Iterable[str]) -> set[str]:
    """Digests, and those of the files in the folders among them."""
    found = set(md5s)
    for md5 in list(found):
        if md5.endswith(".dir"):
            paths = [path for path in files_of(cache, md5).values() if path is not None]
            found |= {path.parent.name + path.name for path in paths}
    return found


def locks_of_users(root: Path) -> Iterator[set[str]]:
    """md5 of all that a dvc.lock names: each one in the history of branches, tags and remotes, and each that lies in a
    worktree."""
    everywhere = ("--branches", "--tags", "--remotes", "HEAD")
    commits = git(root, "rev-list", *everywhere, "--", "dvc.lock").split()
    for commit in commits:
        with suppress(PreflowError):
            yield _named_in(git(root, "cat-file", "blob", f"{commit}:dvc.lock"))
    for line in git(root, "worktree", "list", "--porcelain").splitlines():
        lock = Path(line.removeprefix("worktree ")) / "dvc.lock"
        if line.startswith("worktree ") and lock.is_file():
            yield _named_in(lock.read_text(encoding="utf-8"))


def _named_in(text: str) -> set[str]:
    stages = (YAML(typ="safe").load(text) or {}).get("stages") or {}
    entries = [one for stage in stages.values() for kind in ("deps", "outs") for one in stage.get(kind) or ()]
    return {str(one["md5"]) for one in entries if "md5" in one}


def weight(cache: Path, md5s: Iterable[str]) -> int:
    """Bytes that these objects take in the cache."""
    return sum(path.stat().st_size for md5 in md5s if (path := object_path(cache, md5)) is not None)


def remove(cache: Path, md5s: Iterable[str]) -> int:
    """Take objects out of a cache, or of a remote of the same form; returns how many there were."""
    count = 0
    for md5 in md5s:
        path = object_path(cache, md5)
        if path is not None:
            path.unlink()
            count += 1
    return count


def forget_runs(cache: Path, md5s: set[str]) -> None:
    """Drop entries of DVC's run cache whose outs are no longer there: it would miss them, and say so, each time."""
    for entry in (cache / "runs").glob("*/*/*"):
        with suppress(ValueError, OSError, KeyError, TypeError, AttributeError):
            outs = (YAML(typ="safe").load(entry.read_text(encoding="utf-8")) or {}).get("outs") or ()
            if md5s & {str(out.get("md5")) for out in outs}:
                entry.unlink()


def remotes(root: Path) -> dict[str, Path | str]:
    """DVC's remotes by name: a folder of this machine, or an address that only DVC can reach."""
    done = dvc.call(root, "remote", "list")
    found: dict[str, Path | str] = {}
    for line in done.stdout.splitlines():
        if match := _REMOTE.fullmatch(line.strip()):
            name, url = match.groups()
            local = "://" not in url or url.startswith("file://")
            found[name] = (root / ".dvc" / url.removeprefix("file://")).resolve() if local else url
    return found


def told_size(size: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
