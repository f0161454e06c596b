"""Lists of SHA-256 beside files that no dvc.lock names, written when these were: journals, reports, MLflow's artifacts.

They have the form of `sha256sum`, so that `sha256sum -c SHA256SUMS` says what `preflow verify` says.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tasks.graph import digest
from tasks.inside import leads_out

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
WITHDRAWN = ".withdrawn"
"""At the end of the name of what lies in the place of a file that was deleted on purpose."""


def of_text(text: str) -> str:
    """SHA-256 of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_text(sums: Mapping[str, str]) -> str:
    """The list, by name."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items()))


def parse(text: str) -> dict[str, str]:
    """SHA-256 by name.

    Raises:
        ValueError: a line that is none of ours, or that names a file outside of the folder; or no line at all.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"its line {line[:80]!r} is damaged")
        if leads_out(match[2]):
            raise ValueError(f"it names {match[2]!r}, which is not in this folder")
        found[match[2]] = match[1]
    if not found:
        raise ValueError("it names no files")
    return found


def seal(folder: Path, files: Iterable[Path]) -> None:
    """Write the list of these files of a folder into it."""
    write(folder, {path.relative_to(folder).as_posix(): digest(path) for path in files})


def write(folder: Path, sums: Mapping[str, str]) -> None:
    """Write a list into a folder: all of it or nothing."""
    fresh = folder / f".{SUMS}.{os.getpid()}"
    fresh.write_text(as_text(sums), encoding="utf-8")
    fresh.replace(folder / SUMS)


def withdraw(path: Path) -> None:
    """Delete a file on purpose, and say so in its place: what was withdrawn is not taken for lost.

    Nothing is said where its folder is gone too: that of what is to be told of a run, once it is told.
    """
    with suppress(FileNotFoundError):
        path.unlink(missing_ok=True)
        path.with_name(path.name + WITHDRAWN).touch()


def is_withdrawn(path: Path) -> bool:
    """Whether it was deleted on purpose."""
    return path.with_name(path.name + WITHDRAWN).exists()


def look(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file that the list of a folder names, with what it should have.

    Raises:
        OSError, ValueError: the list cannot be read, or is damaged.
    """
    for name, sha256 in parse((folder / SUMS).read_text(encoding="utf-8")).items():
        yield folder / name, sha256


def unlike(path: Path, sha256: str) -> str:
    """Why a file is not the one that was written; "" where it is."""
    try:
        now = digest(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if now == sha256 else f"has sha256 {now}, it was written with {sha256}"
