"""Every byte that the last run stands on, hashed anew: outputs, what they were made of, cache, checkpoints, versions.

DVC hashes a file once and then trusts its time and its name: a byte that flips on a disk goes on into runs, clones and
remotes under the digest of what it was. Nothing is changed here; `flows.verify_mend` does that.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows import dvc, releases
from flows.again import files_on_disk, md5_of
from flows.cache import listing, object_path
from flows.reproduce_restore import outs_of
from rlhf.errors import DependencyDown, PreflowError
from rlhf.manifests import problem
from tasks import tracking
from tasks.config import read_yaml
from tasks.journal import home
from tasks.witness import file_md5

Kind = Literal["output", "input", "object", "checkpoint", "version"]
OWN_INPUTS = "data/"
"""Where stages read what no stage makes; other dependencies are code, which git has."""


@dataclass(frozen=True)
class Wrong:
    """Something that is not what it is said to be."""

    kind: Kind
    where: str
    """A path in the project, or the name of a version."""
    stage: str
    """That wrote it or, of an input, reads it; "" for a version of another run."""
    why: str
    """What is the matter, for people."""
    md5: str = ""
    """What it should have, where DVC names it."""
    out: str = ""
    """Of an object of the cache: the output that it belongs to."""


@dataclass
class Found:
    """What was looked at, and what of it is wrong."""

    wrong: list[Wrong] = field(default_factory=list)
    files: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""


Told = Callable[[int, int], None]
"""How many files were hashed, and their bytes."""


def verify(root: Path, told: Told = lambda *_: None) -> Found:
    """Look at everything that dvc.lock names, at checkpoints that a stage would go on from, and at promoted versions.

    Raises:
        PreflowError: nothing was run here yet, or dvc.lock cannot be read.
    """
    path = root / "dvc.lock"
    if not path.exists():
        raise PreflowError("there is no dvc.lock: nothing was run here yet; `preflow run` runs the pipeline")
    lock: Mapping[str, Any] = read_yaml(path).get("stages") or {}
    if not lock or not all(isinstance(entry, dict) for entry in lock.values()):
        raise PreflowError("dvc.lock names no stages as it should: take the last good one, or run again")
    found = Found()
    cache = dvc.cache(root)
    _objects(root, cache, lock, found, told)
    _working_copy(root, cache, lock, found, told)
    _checkpoints(root, found)
    _versions(root, found)
    return found


def _count(found: Found, path: Path, told: Told) -> None:
    found.files, found.size = found.files + 1, found.size + path.stat().st_size
    told(found.files, found.size)


def _objects(root: Path, cache: Path, lock: Mapping[str, Any], found: Found, told: Told) -> None:
    """Objects of the cache are named by the md5 of what they should hold."""
    seen: set[str] = set()
    for stage in lock:
        for out, md5 in outs_of(lock, stage).items():
            for each in with_members(cache, md5):
                path = object_path(cache, each)
                if each in seen or path is None:  # what is missing in the cache may be on the remote, and is no damage
                    continue
                seen.add(each)
                _count(found, path, told)
                if why := unlike(path, each.removesuffix(".dir")):
                    found.wrong.append(Wrong("object", _shown(root, path), stage, why, each, out))


def unlike(path: Path, md5: str) -> str:
    """Why a file is not what this digest, which names an object of the cache, says; "" where it is."""
    try:
        now = file_md5(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if now == md5 else f"holds bytes of md5 {now}, not those that it is named by"


def with_members(cache: Path, md5: str) -> Iterator[str]:
    """The digest, and those of the files where it is a folder's whose listing is whole."""
    yield md5
    path = object_path(cache, md5)
    if md5.endswith(".dir") and path is not None and not unlike(path, md5.removesuffix(".dir")):
        yield from listing(cache, md5).values()


def _working_copy(root: Path, cache: Path, lock: Mapping[str, Any], found: Found, told: Told) -> None:
    made = {path for stage in lock for path in outs_of(lock, stage)}
    looked: set[str] = set()
    for stage, entry in lock.items():
        for path, md5 in outs_of(lock, stage).items():
            _one(root, cache, found, told, Wrong("output", path, stage, "", md5))
        for dep in entry.get("deps") or ():
            path = dep["path"]
            if path.startswith(OWN_INPUTS) and "md5" in dep and path not in made and path not in looked:
                looked.add(path)
                _one(root, cache, found, told, Wrong("input", path, stage, "", dep["md5"]))


def _one(root: Path, cache: Path, found: Found, told: Told, thing: Wrong) -> None:
    path = root / thing.where
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        _count(found, file, told)
    try:
        now = md5_of(path)
    except OSError as error:
        now, why = "", f"cannot be read: {error.strerror}: {Path(str(error.filename)).name}"
    if now == thing.md5:
        return
    if now is None:
        why = "is not there"
    elif now:
        names = _changed_files(cache, path, thing.md5)
        why = f"differs from what dvc.lock says{f', in {names}' if names else ''}"
        why += ": changed since, or damaged" if thing.kind == "input" else ""
    found.wrong.append(Wrong(thing.kind, thing.where, thing.stage, why, thing.md5))


def _changed_files(cache: Path, path: Path, md5: str) -> str:
    """Which files of a folder are others, where the cache still knows what was in it."""
    if not path.is_dir():
        return ""
    try:
        before = listing(cache, md5)
    except (ValueError, KeyError, TypeError):  # a listing that is damaged itself
        return ""
    now = files_on_disk(path)
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name)) if before else []
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _checkpoints(root: Path, found: Found) -> None:
    """Those that a stage, run again, would go on from; their stage is the first word of their folder."""
    scratch = home(root) / "scratch"
    for folder in sorted(scratch.glob("*/**/step-*")):
        stage = folder.relative_to(scratch).parts[0].rpartition("-")[0]
        found.files += 1
        try:
            why = problem(folder)
        except OSError as error:  # it may be good
            found.notes.append(f"{_shown(root, folder)} was not looked at: {error.strerror}")
            continue
        if why:
            found.wrong.append(Wrong("checkpoint", _shown(root, folder), stage, why))


def _versions(root: Path, found: Found) -> None:
    """The registry's md5 of each promoted policy against the dvc.lock of its run, which git has."""
    if not releases.names(root):
        return
    try:
        registered = tracking.versions(root)
    except DependencyDown as error:
        found.notes.append(f"promoted versions were not looked at: {error}")
        return
    for one in registered:
        name = f"{one['name']}/{one['version']}"
        try:
            release = releases.find(root, name)
        except PreflowError as error:
            found.notes.append(f"{name} was not looked at: {error}")
            continue
        said = release.digests.get(str(one["path"]), "")
        if said != one["md5"]:
            why = f"is registered with md5 {one['md5'] or 'of nothing'}, its run wrote {said or 'no such output'}"
            found.wrong.append(Wrong("version", name, "", why))


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def as_json(found: Found, mended: Mapping[Wrong, str]) -> dict[str, Any]:
    """As JSON: what was looked at, and one object for each thing that is wrong."""
    things = [
        {"kind": one.kind, "where": one.where, "stage": one.stage, "why": one.why, "mended": mended.get(one)}
        for one in found.wrong
    ]
    return {"files": found.files, "bytes": found.size, "wrong": things, "notes": found.notes}
