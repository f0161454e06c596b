"""Git: a clone and a remote with a ref a run, as every run leaves one below refs/preflow/runs."""

import json
import shutil
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from bench.limits.clock import Clock
from bench.limits.files import BUILD
from bench.limits.record import Point
from flows import workspace
from flows.lineage.runs import known_runs
from flows.objects import locks_of_refs
from flows.releases import refs as releases_refs
from flows.workspace import git
from tests.tasks import toy_runs

FORM = "--format=%(objectname) %(refname)"


def installed() -> dict[str, str]:
    return {"git": git(BUILD.parents[1], "--version").split()[2]}


def refs(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By refs of runs, with all of them loose, as no command of a run packs them."""
    for size in sorted(sizes):
        root = BUILD / "git/clone"
        try:
            yield size, _loose(root, size) | _packed(root)
        finally:
            shutil.rmtree(BUILD / "git", ignore_errors=True)


def read(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By refs of runs: commands that read what each run was, `lineage`, `withdraw` and `prune`."""
    for size in sorted(sizes):
        root, clock = BUILD / "git/clone", Clock()
        try:
            _clone(root, size)
            yield (
                size,
                {
                    "lineage: graph and lock of every run": [clock.once(partial(known_runs, root))],
                    "prune: what every lock names": [clock.once(partial(_exhaust, root))],
                },
            )
        finally:
            shutil.rmtree(BUILD / "git", ignore_errors=True)


def _exhaust(root: Path) -> None:
    for _ in locks_of_refs(root, ()):
        pass


def _loose(root: Path, size: int) -> Point:
    clock = Clock()
    remote = _clone(root, size)
    return {
        "first push of all": [clock.once(partial(git, root, "push", "-q", "origin", "refs/preflow/*:refs/preflow/*"))],
        "list all": clock.each(partial(git, root, "for-each-ref", FORM, "refs/preflow/runs")),
        "preflow: a run gets its ref": clock.each(partial(workspace.keep, root, "refs/preflow/runs/new", "HEAD")),
        "preflow: earlier runs of a label": clock.each(partial(workspace.runs, root, "seed=3")),
        "push of one more": clock.each(partial(_push, root)),
        "first fetch of all": [clock.once(partial(releases_refs.fetch, root))],
        "fetch with nothing new": clock.each(partial(releases_refs.fetch, root)),
        "clone and remote, bytes": [float(_size(root) + _size(remote))],
    }


def _packed(root: Path) -> Point:
    clock = Clock()
    git(root, "pack-refs", "--all")
    return {
        "list all, packed": clock.each(partial(git, root, "for-each-ref", FORM, "refs/preflow/runs")),
        "push of one more, packed": clock.each(partial(_push, root)),
        "packed-refs, bytes": [float((root / ".git/packed-refs").stat().st_size)],
    }


def _push(root: Path) -> None:
    """A run that the remote does not have yet."""
    tree = git(root, "rev-parse", "HEAD^{tree}").strip()
    commit = git(root, "commit-tree", tree, "-p", "HEAD", data=b"one more", env=IDENTITY).strip()
    git(root, "push", "-q", "origin", f"+{commit}:refs/preflow/runs/more")


IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "bench"), ("EMAIL", "bench@example.org"))
}


def _clone(root: Path, size: int) -> Path:
    """A clone with as many runs, each with a lock of its own, and its remote, which has none yet."""
    shutil.rmtree(root.parent, ignore_errors=True)
    toy_runs.write_tree(root)
    toy_runs.run_all(root, "r", steps=1)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "dvc.yaml", "params.yaml")
    git(root, "commit", "-qm", "start", env=IDENTITY)
    remote = root.parent / "remote.git"
    git(root, "init", "-q", "--bare", str(remote))
    git(root, "remote", "add", "origin", str(remote))
    for place in (root, remote):  # a ref is a file, and each would wait for the disk, for which the clock does not ask
        git(place, "config", "core.fsync", "none")
    lock = json.loads((root / "dvc.lock").read_text("utf-8"))
    stream = b"".join(_run(number, lock) for number in range(size))
    git(root, "fast-import", "--quiet", data=stream)
    return remote


def _run(number: int, lock: dict[str, object]) -> bytes:
    """A commit of fast-import's, on a ref of its own."""
    name = f"20260101-{number:06d}-{number:04x}"
    text = (json.dumps(lock | {"run": number}, indent=1) + "\n").encode()
    subject = f"preflow run {name} [seed={number % 100}]".encode()
    head = f"commit refs/preflow/runs/{name}\ncommitter bench <bench@example.org> {1_700_000_000 + number} +0000\n"
    files = f"from refs/heads/main\nM 100644 inline dvc.lock\ndata {len(text)}\n".encode() + text
    return head.encode() + f"data {len(subject)}\n".encode() + subject + b"\n" + files + b"\n"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ".git" in str(path))
