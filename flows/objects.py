"""Objects of the DVC cache as things to keep or to remove: what locks need of them, and what they weigh."""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import dvc, guards
from flows.cache import files_of, object_path
from flows.workspace import files_at, git
from rlhf.errors import Busy, PreflowError
from tasks import locks
from tasks.journal import home
from tasks.lockfile import locked

_MD5 = re.compile(r"\bmd5: '?([0-9a-f]{32}(?:\.dir)?)\b")
_REMOTE = re.compile(r"(\S+)\s+(.+?)(?:\s+\(default\))?")


def refuse_if_busy(root: Path) -> None:
    """Raises Busy where a run is going on in this checkout or in a worktree of its own."""
    _refuse_held([home(root) / "run.lock"])
    refuse_if_worktree_busy(root)


def refuse_if_worktree_busy(root: Path) -> None:
    """Raises Busy where a run is going on in a worktree of its own."""
    _refuse_held(sorted((home(root) / "worktrees").glob("*.lock")))


@contextmanager
def nobody_else(root: Path, what: str) -> Iterator[None]:
    """Keep runs out while `what` goes on, those in worktrees too. Raises Busy, naming it, where one is going on."""
    with guards.held(home(root) / "run.lock", what):
        refuse_if_worktree_busy(root)
        with guards.removing(root, what):  # one in a worktree may have begun since
            yield


def _refuse_held(files: Iterable[Path]) -> None:
    for lock in files:
        if lock.exists() and guards.is_held(lock):
            holder = locks.holder(lock)
            raise Busy(f"{holder.name if holder else lock.stem} is going on; wait for it, or end it with Ctrl-C there")


def whole(cache: Path, md5s: Iterable[str]) -> set[str]:
    """Digests, and those of the files in the folders among them."""
    found = set(md5s)
    for md5 in list(found):
        if md5.endswith(".dir"):
            paths = [path for path in files_of(cache, md5).values() if path is not None]
            found |= {path.parent.name + path.name for path in paths}
    return found


def locks_of_refs(root: Path, leaving_out: Collection[str]) -> Iterator[set[str]]:
    """md5 of all that the dvc.lock of each ref of ours names, of this clone and of what it has fetched.

    Raises:
        PreflowError: a dvc.lock can not be read, so nobody knows what it needs; the message names the ref.
    """
    spaces = ("refs/preflow", "refs/preflow-remote")
    listed = git(root, "for-each-ref", "--format=%(refname)", *spaces).splitlines()
    refs = [ref for ref in listed if ref not in leaving_out]
    read: dict[str, set[str]] = {}
    for ref, files in zip(refs, files_at(root, refs, ["dvc.lock"]), strict=True):
        if isinstance(files, PreflowError):
            raise files
        for blob, content in files.values():
            if blob not in read:
                read[blob] = _named_in(content.decode("utf-8", "replace"), ref)
            yield read[blob]


def locks_of_users(root: Path, leaving_out: Collection[Path] = ()) -> Iterator[set[str]]:
    """md5 of all that a dvc.lock names: each one in the history of branches, tags, remotes and stashes, and each that
    lies in a worktree which is not left out.

    Raises:
        PreflowError: the dvc.lock of a worktree can not be read; the message names it.
    """
    stashes = git(root, "stash", "list", "--format=%H").split()
    everywhere = ("--full-history", "--branches", "--tags", "--remotes", "HEAD", *stashes)
    for commit in git(root, "rev-list", *everywhere, "--", "dvc.lock").split():
        with suppress(PreflowError):  # it was removed in this commit
            yield set(_MD5.findall(git(root, "cat-file", "blob", f"{commit}:dvc.lock")))  # conflict marks or not
    for line in git(root, "worktree", "list", "--porcelain").splitlines():
        tree = Path(line.removeprefix("worktree "))
        lock = tree / "dvc.lock"
        if line.startswith("worktree ") and tree.resolve() not in leaving_out and lock.is_file():
            yield _named_in(lock.read_text(encoding="utf-8", errors="replace"), str(tree))


def _named_in(text: str, where: str) -> set[str]:
    try:
        entries = [one for stage in locked(text).values() for kind in ("deps", "outs") for one in stage.get(kind) or ()]
        return {str(one["md5"]) for one in entries if "md5" in one}
    except (YAMLError, ValueError, AttributeError, TypeError) as error:
        raise PreflowError(
            f"the dvc.lock of {where} can not be read ({_first_line(error)}), so what it needs of the cache is not "
            "known and nothing is removed; mend it, or remove it if nobody needs it"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
    """DVC's remotes by name: a folder of this machine, or an address that only DVC can reach.

    Raises:
        PreflowError: DVC does not say, as where its settings cannot be read; the message is DVC's.
    """
    done = dvc.call(root, "remote", "list")
    if done.returncode != 0:
        why = dvc.last_line(done.stderr)
        raise PreflowError(f"`dvc remote list` failed: {why}; DVC reads .dvc/config and .dvc/config.local")
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
