"""The DVC cache, read by digest. What it holds may have come from a remote: no name in it leads out of its folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from rlhf.errors import PreflowError

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


def object_path(cache: Path, md5: str | None) -> Path | None:
    """Where the cache keeps the bytes of a digest; None where it does not."""
    if md5 is None or not _MD5.fullmatch(md5):
        return None
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    return path if path.exists() else None


def files_of(cache: Path, md5: str | None) -> Mapping[str, Path | None]:
    """The files of a folder by name, None for those that the cache lacks; empty where it has no listing."""
    return {name: object_path(cache, each) for name, each in listing(cache, md5).items()}


def listing(cache: Path, md5: str | None) -> Mapping[str, str]:
    """The digests of the files of a folder by name; empty for a file, and where the cache lacks the listing."""
    path = object_path(cache, md5) if (md5 or "").endswith(".dir") else None
    entries = json.loads(path.read_text(encoding="utf-8")) if path else []
    return {entry["relpath"]: entry["md5"] for entry in entries}


def link_folder(cache: Path, md5: str, target: Path) -> bool:
    """Put links to a folder's files at `target`; False, and nothing put there, where the cache lacks any.

    Raises:
        PreflowError: the listing names a file outside of the folder.
    """
    found = files_of(cache, md5)
    sources = {name: source for name, source in found.items() if source is not None}
    if not found or len(sources) < len(found):
        return False
    if outside := [name for name in found if not (target / name).resolve().is_relative_to(target.resolve())]:
        raise PreflowError(f"the listing {md5} of the DVC cache names {outside[0]}, which lies outside of its folder")
    for name, source in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(source)
    return True
