"""What `reproduce` and `diff` share: which commit a name stands for, and folders hashed as DVC hashes them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from flows import releases
from flows.workspace import git
from rlhf.errors import PreflowError

IGNORED = (".gitkeep",)  # as .dvcignore has it


def resolve(root: Path, text: str) -> releases.Release:
    """A model, a version, a run or a ref of ours by `releases.find`; else any commit that git knows by this name.

    Raises:
        PreflowError: it is none of them; DependencyDown: it is not here, and the git remote did not answer.
    """
    try:
        return releases.find(root, text)
    except PreflowError:
        try:
            commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}").strip()
        except PreflowError:
            commit = ""
        if not commit:
            raise
        return releases.Release(ref=text, commit=commit, run="")


def md5_of(path: Path) -> str | None:
    """DVC's md5 of a file or folder as it lies on disk, read to the last byte; None where nothing is there."""
    if path.is_file():
        return _md5(path)
    return folder_md5(files_on_disk(path)) if path.is_dir() else None


def files_on_disk(folder: Path) -> dict[str, str]:
    """md5 of each file of a folder, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in IGNORED)
    return {path.relative_to(folder).as_posix(): _md5(path) for path in files}


def folder_md5(files: Mapping[str, str]) -> str:
    """Of a folder with these files: DVC takes the md5 of a JSON list of them, in the order of their paths."""
    listed = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
