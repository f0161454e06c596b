"""What `preflow verify` has looked at, and what of it is not as it should be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["output", "input", "object", "checkpoint", "version", "journal", "report", "artifact", "lineage", "run"]
Told = Callable[[int, int], None]
"""How many files were hashed, and their bytes."""


@dataclass(frozen=True)
class Wrong:
    """Something that is not what it is said to be."""

    kind: Kind
    where: str
    """A path in the project, or the name of a version, of a run, or of an artifact in MLflow."""
    stage: str
    """That wrote it or, of an input, reads it; "" for what is no stage's."""
    why: str
    """What is the matter, for people."""
    md5: str = ""
    """What it should have, where DVC names it."""
    out: str = ""
    """Of an object of the cache: the output that it belongs to."""


@dataclass
class Found:
    """What was looked at, and what of it is wrong."""

    told: Told = lambda *_: None
    wrong: list[Wrong] = field(default_factory=list)
    missing: list[Wrong] = field(default_factory=list)
    """What is not here and may well be so: pruned, withdrawn, deleted in MLflow, or never fetched."""
    files: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""

    def count(self, size: int) -> None:
        """That one more file, of so many bytes, is hashed."""
        self.files, self.size = self.files + 1, self.size + size
        self.told(self.files, self.size)


@dataclass(frozen=True)
class Subject:
    """The run that is looked at."""

    name: str
    """"" where the lock in the checkout is that of no run that is kept here."""
    commit: str
    lock: Mapping[str, Any]
    """Entries of dvc.lock by stage; none of a run that is known to MLflow alone."""
    is_here: bool
    """Whether the checkout has this lock, so that its outputs lie there."""


def as_json(found: Found, mended: Mapping[Wrong, str]) -> dict[str, Any]:
    """As JSON: what was looked at, and one object for each thing that is wrong."""
    wrong = [_told(one) | {"mended": mended.get(one)} for one in found.wrong]
    missing = [_told(one) for one in found.missing]
    return {"files": found.files, "bytes": found.size, "wrong": wrong, "missing": missing, "notes": found.notes}


def _told(one: Wrong) -> dict[str, Any]:
    return {"kind": one.kind, "where": one.where, "stage": one.stage, "why": one.why}
