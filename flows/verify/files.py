"""Files that a dvc.lock names, hashed anew: objects of the DVC cache, the working copy, and checkpoints by manifest."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.again import files_on_disk, md5_of
from flows.cache import listing, object_path
from flows.reproduce.restore import outs_of
from flows.verify.found import Found, Wrong
from rlhf.errors import PreflowError
from rlhf.manifests import problem
from tasks.inside import leads_out
from tasks.journal import home
from tasks.witness import file_md5

OWN_INPUTS = "data/"
"""Where stages read what no stage makes; other dependencies are code, which git has."""


def checked(lock: Any, where: str) -> Mapping[str, Any]:
    """Entries of a dvc.lock by stage; it may have come from anywhere.

    Raises:
        PreflowError: it is no such thing, or names a path outside of the project.
    """
    stages = lock.get("stages") if isinstance(lock, dict) else None
    if not stages or not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise PreflowError(f"{where} names no stages as it should: take the last good one, or run again")
    for name, entry in stages.items():
        for thing in (*(entry.get("outs") or ()), *(entry.get("deps") or ())):
            if not isinstance(thing, dict) or "path" not in thing:
                raise PreflowError(
                    f"{where}: in stage {name}, {thing!r} names no file: take the last good one, or run again"
                )
            path = str(thing["path"])
            if leads_out(path):
                raise PreflowError(
                    f"{where} names {path} in stage {name}, which is not below this project, so nothing was looked at "
                    "and nothing is mended: take the last good one, or run again"
                )
    return stages


def objects(root: Path, cache: Path, lock: Mapping[str, Any], found: Found, seen: set[str]) -> list[Wrong]:
    """Objects of the cache are named by the md5 of what they should hold. Returns outputs that it has not whole."""
    lacking = []
    for stage in lock:
        for out, md5 in outs_of(lock, stage).items():
            for each in with_members(cache, md5):
                path = object_path(cache, each)
                if path is None:
                    lacking.append(Wrong("object", out, stage, "is not in the DVC cache, or not all of it", md5))
                    continue
                if each in seen:
                    continue
                seen.add(each)
                found.count(path.stat().st_size)
                if why := unlike(path, each.removesuffix(".dir")):
                    found.wrong.append(Wrong("object", shown(root, path), stage, why, each, out))
    return list(dict.fromkeys(lacking))


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


def working_copy(root: Path, cache: Path, lock: Mapping[str, Any], found: Found) -> None:
    """Outputs, and what of data/ the stages read that none of them makes."""
    made = {path for stage in lock for path in outs_of(lock, stage)}
    looked: set[str] = set()
    for stage, entry in lock.items():
        for path, md5 in outs_of(lock, stage).items():
            _one(root, cache, found, Wrong("output", path, stage, "", md5))
        for dep in entry.get("deps") or ():
            path = dep["path"]
            if path.startswith(OWN_INPUTS) and "md5" in dep and path not in made and path not in looked:
                looked.add(path)
                _one(root, cache, found, Wrong("input", path, stage, "", dep["md5"]))


def _one(root: Path, cache: Path, found: Found, thing: Wrong) -> None:
    path = root / thing.where
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        found.count(file.stat().st_size)
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


def checkpoints(root: Path, found: Found) -> None:
    """Those that a stage, run again, would go on from; their stage is the first word of their folder."""
    scratch = home(root) / "scratch"
    for folder in sorted(scratch.glob("*/**/step-*")):
        stage = folder.relative_to(scratch).parts[0].rpartition("-")[0]
        try:
            for file in folder.iterdir():
                found.count(file.stat().st_size)
            why = problem(folder)
        except OSError as error:  # it may be good
            if folder.exists():
                found.notes.append(f"{shown(root, folder)} was not looked at: {error.strerror}")
            continue
        if why and folder.exists():  # a run that goes on keeps the newest few
            found.wrong.append(Wrong("checkpoint", shown(root, folder), stage, why))


def shown(root: Path, path: Path) -> str:
    """A path as people are told it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
