"""Bring every source named in params into data/inbox, the one folder that stages may read from outside.

A source is a file or a folder with an origin and a sha256. Its copy is looked for under $PREFLOW_SHARED, or in a folder
`shared` beside the checkout, unless its path is a full one, as that of what `base.model` and `collect` name is
(flows/given.py). data/inbox/sources.json then lists what lies there and where it came from.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rlhf.errors import PreflowError
from rlhf.records import write_json
from tasks.config.sources import Source
from tasks.graph import digest

WEIGHTS = ".safetensors"
"""Files that are linked: too large for a copy, and nobody edits them."""

_SEEN: dict[tuple[int, ...], str] = {}


def shared_folder(root: Path) -> Path:
    """Where copies of public data and models are looked for; `root` is the main checkout."""
    return Path(os.environ.get("PREFLOW_SHARED") or root.parent / "shared")


def bring(sources: Sequence[Source], inbox: Path, shared: Path) -> None:
    """Link or copy each source to its target under `inbox` and list them in sources.json; what is there already stays.

    What an earlier call brought and this one does not is taken away, unless it was changed meanwhile.

    Raises:
        PreflowError: a source is not found (the message says where it is published and what to set), its copy is not
            the one that params name, or its folder in the inbox holds files of somebody else.
    """
    listing = inbox / "sources.json"
    before = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    found = {source.target: _found(source, shared) for source in sources}
    wanted = {_target(inbox, source, name) for source in sources for name in found[source.target]}
    for name, sha256 in ((name, sha256) for entry in before for name, sha256 in entry["files"].items()):
        if inbox / name not in wanted and _sha256(inbox / name) == sha256:
            (inbox / name).unlink()
    entries = [_brought(source, found[source.target], inbox, shared, wanted) for source in sources]
    if entries:
        write_json(listing, entries)
    else:
        listing.unlink(missing_ok=True)


def tree_sha256(path: Path, only: Collection[str] = ()) -> str:
    """sha256 of a file; of a folder that of its lines `sha256  path`, sorted by path, as `sha256sum` prints them.

    `only` are the files of a folder that count; empty: all.
    """
    return _digest(_files(path, only))


def _digest(files: Mapping[str, str]) -> str:
    if list(files) == [""]:
        return files[""]
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in files.items())
    return hashlib.sha256(listing.encode("utf-8")).hexdigest()


def _found(source: Source, shared: Path) -> Mapping[str, str]:
    """The files of a source, by their paths in it, with their sha256."""
    origin = shared / source.path
    absent = [name for name in source.files or ("",) if not (origin / name).exists()]
    if absent:
        raise PreflowError(
            f"{source.name}: {origin / absent[0]} is not there. It is {source.origin} at {source.revision} "
            f"({source.licence}); set PREFLOW_SHARED to a folder that holds it as {source.path}"
        )
    found = _files(origin, source.files)
    seen = _digest(found)
    if seen != source.sha256:
        raise PreflowError(f"{source.name}: {origin} has sha256 {seen}, params name {source.sha256}: another version")
    return found


def _brought(
    source: Source, found: Mapping[str, str], inbox: Path, shared: Path, wanted: Collection[Path]
) -> dict[str, object]:
    if "" not in found:
        _refuse_strangers(source, inbox, wanted)
    files = {}
    for name, sha256 in found.items():
        target = _target(inbox, source, name)
        if _sha256(target) != sha256:
            _link_or_copy(shared / source.path / name, target)
        files[target.relative_to(inbox).as_posix()] = sha256
    about = {"name": source.name, "origin": source.origin, "revision": source.revision, "licence": source.licence}
    return about | {"sha256": source.sha256, "files": files}


def _target(inbox: Path, source: Source, name: str) -> Path:
    return inbox / source.target / name


def _refuse_strangers(source: Source, inbox: Path, wanted: Collection[Path]) -> None:
    """A stage reads the whole folder: what somebody else put there must be neither mixed in nor deleted."""
    folder = inbox / source.target
    there = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    strangers = [path.relative_to(folder).as_posix() for path in there if path not in wanted]
    if strangers:
        raise PreflowError(
            f"{folder} holds files that are not of {source.name} ({', '.join(strangers[:3])}"
            f"{' …' * (len(strangers) > 3)}): move them away"
        )


def _files(path: Path, only: Collection[str] = ()) -> dict[str, str]:
    """Relative path → sha256 of every file; a single file has the relative path ""."""
    if path.is_file():
        return {"": _sha256(path)}
    names = only or [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    _refuse_links_out(path, names)
    return {name: _sha256(path / name) for name in sorted(names, key=lambda name: Path(name).parts)}


def _refuse_links_out(folder: Path, names: Collection[str]) -> None:
    """A folder from elsewhere may hold a link to a file of the user, who would train on it and share it.

    In the cache of the Hugging Face hub a snapshot is made of links, to `blobs` of the same repository.
    """
    inside = folder.resolve()
    snapshots = next((above for above in inside.parents if above.name == "snapshots"), None)
    blobs = snapshots.parent / "blobs" if snapshots else inside
    for name in names:
        target = (folder / name).resolve()
        if not (target.is_relative_to(inside) or target.is_relative_to(blobs)):
            raise PreflowError(
                f"{folder / name} is a link to {target}, which lies outside of its folder: put a copy there if it is "
                "meant to be read, or name that file itself"
            )


def _sha256(path: Path) -> str:
    """Read once where it is looked at several times, as a file of many gigabytes or its hard link in the inbox is."""
    if not path.is_file():
        return digest(path)
    about = path.stat()
    seen = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    if seen not in _SEEN:
        _SEEN[seen] = digest(path)
    return _SEEN[seen]


def _link_or_copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        if not origin.name.endswith(WEIGHTS):
            raise OSError
        os.link(origin.resolve(), partial)
    except OSError:  # another file system, or one without links
        shutil.copyfile(origin, partial)
    partial.replace(target)
