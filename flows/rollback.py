"""The champion put back to a version that there was, or forward again; its files proven whole before anything moves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import champion, dvc, guards, policies, remote
from flows.again import md5_of
from flows.cache import files_of, object_path
from flows.releases import releases, send
from rlhf.errors import PreflowError
from tasks import tracking


def rollback(root: Path, name: str, number: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Make a version the champion; None is the one before the present.

    Returns:
        `name`, `version`, `before` (version), `pushed` (git remote, or ""), `files` that were read and found whole.

    Raises:
        PreflowError: there is no such version, or some of its files are nowhere. DependencyDown: the registry or a
            remote did not answer. The champion is then where it was, unless only the last push failed.
    """
    with guards.promoting(root, f"rollback of {name}", say):
        return _rollback(root, name, number, say)


def _rollback(root: Path, name: str, number: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    now = champion.reigning(root, name)
    before = now["version"] if now else None
    target = policies.version_of(root, name, number if number is not None else _one_before(root, name, before))
    version = int(target["version"])
    wanted = [path for path in (target["path"], champion.COMPLETIONS, champion.SCORES) if path in target["digests"]]
    files = _prove(root, target, wanted, say)
    if tracking.knows(root, name):
        tracking.crown(root, name, version, {"rollback.from": str(before)} if before not in (None, version) else {})
    if not any(one.version == version for one in releases.versions(root, name)):
        releases.publish(root, name, target, str(target["commit"]))  # of a time before there were refs
    releases.crown(root, name, version)
    say(f"{name} v{version} is the champion; {files} files of it were read and are whole")
    remote.push_version(root, target, wanted)  # before the refs: who sees a version can fetch it
    pushed = send.push(root, name, version, before)
    return {"name": name, "version": version, "before": before, "files": files, "pushed": pushed}


def _one_before(root: Path, name: str, now: int | None) -> int:
    known = sorted(one.version for one in releases.versions(root, name) if one.version is not None)
    earlier = [version for version in known if now is None or version < now]
    if now is None and not earlier:
        others = ", ".join(releases.names(root))
        if others:
            raise PreflowError(f"no version of {name} was promoted; there are versions of {others}")
        raise PreflowError("nothing is promoted yet, so there is no version to go back to")
    if not earlier:
        listed = ", ".join(map(str, known)) or "none"
        raise PreflowError(f"{name} has no version before v{now} (known: {listed}); name one, as {name}/{now}")
    return earlier[-1]


def _prove(root: Path, version: Mapping[str, Any], wanted: Sequence[str], say: Callable[[str], None]) -> int:
    """Have the policy in the DVC cache, and what the next run reads of it; every file of the policy is read."""
    remote.fetch(root, version, wanted, say)
    cache = dvc.cache(root)
    found = files_of(cache, version["md5"])
    for name, path in found.items():
        if path is None or md5_of(path) != path.parent.name + path.name:
            raise PreflowError(
                f"{version['path']}/{name} of {version['ref']} is not whole in the DVC cache ({path}): delete that "
                "file, and the same command fetches it again"
            )
    if not found or object_path(cache, version["md5"]) is None:
        raise PreflowError(f"{version['path']} of {version['ref']} is not in the DVC cache")
    return len(found)
