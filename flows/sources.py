"""Bring every source named in params into data/inbox, the one folder that stages may read from outside.

A source is a file or a folder with a public origin and a sha256. Its copy is looked for under $PREFLOW_SHARED, or in a
folder `shared` beside the checkout. data/inbox/sources.json then lists what lies there and where it came from.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.errors import PreflowError
from rlhf.records import write_json
from tasks.config.sources import Source
from tasks.graph import digest


def shared_folder(root: Path) -> Path:
    """Where copies of public data and models are looked for; `root` is the main checkout."""
    return Path(os.environ.get("PREFLOW_SHARED") or root.parent / "shared")


def bring(sources: Sequence[Source], inbox: Path, shared: Path) -> None:
    """Link or copy each source to its target under `inbox` and list them in sources.json; what is there already stays.

    Raises:
        PreflowError: a source is not found (the message says where it is published and what to set), or its copy is not
            the one that params name.
    """
    entries = [_brought(source, inbox, shared) for source in sources]
    listing = inbox / "sources.json"
    if entries:
        write_json(listing, entries)
    else:
        listing.unlink(missing_ok=True)


def tree_sha256(path: Path) -> str:
    """sha256 of a file; of a folder that of its lines `sha256  path`, sorted by path, as `sha256sum` prints them."""
    return _digest(_files(path))


def _digest(files: Mapping[str, str]) -> str:
    if list(files) == [""]:
        return files[""]
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in files.items())
    return hashlib.sha256(listing.encode("utf-8")).hexdigest()


def _brought(source: Source, inbox: Path, shared: Path) -> dict[str, object]:
    origin = shared / source.path
    if not origin.exists():
        raise PreflowError(
            f"{source.name}: {origin} is not there. It is {source.origin} at {source.revision} ({source.licence}); "
            f"set PREFLOW_SHARED to a folder that holds it as {source.path}"
        )
    found = _files(origin)
    seen = _digest(found)
    if seen != source.sha256:
        raise PreflowError(f"{source.name}: {origin} has sha256 {seen}, params name {source.sha256}: another version")
    files = {}
    for name, sha256 in found.items():
        target = inbox / source.target / name
        if digest(target) != sha256:
            _link_or_copy(origin / name, target)
        files[target.relative_to(inbox).as_posix()] = sha256
    about = {"name": source.name, "origin": source.origin, "revision": source.revision, "licence": source.licence}
    return about | {"sha256": source.sha256, "files": files}


def _files(path: Path) -> dict[str, str]:
    """Relative path → sha256 of every file; a single file has the relative path ""."""
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {"" if file == path else file.relative_to(path).as_posix(): digest(file) for file in found}


def _link_or_copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(origin.resolve(), partial)
    except OSError:  # another file system, or one without links
        shutil.copyfile(origin, partial)
    partial.replace(target)
