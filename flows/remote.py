"""The DVC remote: bytes of a version brought from there, and sent there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import dvc, workspace, worktrees
from flows.cache import files_of, object_path
from rlhf.errors import DependencyDown, PreflowError


def missing(cache: Path, version: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """Those of a version's outputs of which the DVC cache lacks something."""
    return [path for path in paths if not _is_there(cache, version["digests"].get(path))]


def fetch(root: Path, version: Mapping[str, Any], paths: Sequence[str], say: Callable[[str], None]) -> None:
    """Have these outputs of a version (told as `tasks.tracking.version` does) in the DVC cache.

    Raises:
        PreflowError: its commit is not in this clone, or the remote does not have them either.
    """
    cache = dvc.cache(root)
    wanted = missing(cache, version, paths)
    if not wanted:
        return
    commit, shown = str(version["commit"] or version["ref"]), ", ".join(wanted)
    say(f"fetching {shown} of {version['ref']} from the DVC remote …")
    try:
        workspace.git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except PreflowError:
        raise PreflowError(
            f"the run {version['ref']} that made it is not in this clone, nor its weights in the DVC cache; "
            f"`preflow reproduce {version.get('run') or version['ref']}` brings the run where the git remote has it"
        ) from None
    with worktrees.checkout(root, f"fetch-{commit[:12]}", commit, cache=cache) as tree:
        done = dvc.call(tree, "fetch", *wanted)
    if missing(cache, version, wanted):
        last = dvc.last_line(done.stderr)
        raise PreflowError(
            f"{shown} of {version['ref']} is neither in the DVC cache nor on a DVC remote ({last}); "
            "`dvc push` where it was made, or run it again"
        )


def fetch_entry(root: Path, commit: str, stage: str, entry: str, cache: Path) -> None:
    """Have the outputs of a stage in the DVC cache as an entry of dvc.lock names them, which that of the commit lacks.

    Raises:
        DependencyDown: the remote does not have them, or does not answer.
    """
    with worktrees.checkout(root, f"take-{commit[:12]}-{stage}", commit, cache=cache) as tree:
        dvc.put_entry(tree, stage, entry)
        done = dvc.call(tree, "fetch", "--no-run-cache", "--quiet", stage)
    if done.returncode != 0:
        raise DependencyDown(f"the DVC remote did not give what {stage} made: {dvc.last_line(done.stderr)}")


def push_version(root: Path, version: Mapping[str, Any], paths: Sequence[str]) -> str:
    """Send these outputs of a version, which the DVC cache has, as `push` does.

    Raises:
        DependencyDown: the remote did not take them.
    """
    if not dvc.default_remote(root):
        return ""
    commit = str(version["commit"] or version["ref"])
    with worktrees.checkout(root, f"push-{commit[:12]}", commit, cache=dvc.cache(root)) as tree:
        return push(tree, paths)


def push(tree: Path, paths: Sequence[str] = ()) -> str:
    """Send what a tree's dvc.lock names, or of it only `paths`, to its default DVC remote; its name, "" without one.

    Raises:
        DependencyDown: it did not take them.
    """
    name = dvc.default_remote(tree)
    if name and (done := dvc.call(tree, "push", "--quiet", *paths)).returncode != 0:
        last = dvc.last_line(done.stderr)
        raise DependencyDown(f"the DVC remote {name} did not take everything: {last}")
    return name


def _is_there(cache: Path, md5: str | None) -> bool:
    if object_path(cache, md5) is None:
        return False
    return not str(md5).endswith(".dir") or all(files_of(cache, md5).values())
