"""What a reader gives: a row, or why there is none."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as it was found."""

    line: int
    value: dict[str, Any]
    is_text: bool = False
    """Every value is a text, whatever it stands for: a row of a CSV file."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that could not be read; or, by its rule, that row and all that may stand behind it."""

    line: int
    reason: str
    excerpt: str
    rule: str = "readable"


def unfinished(line: int, reason: str, excerpt: str = "") -> Rejected:
    """Reading stopped at this line, and nobody knows how many rows are lost: no share of them can be told."""
    return Rejected(line, f"reading stopped at line {line}: {reason}", excerpt, "unfinished")


def too_long(line: int, size: int, max_bytes: int, last: int = 0) -> Rejected:
    """A row that was skipped for its size, up to line `last` where it goes on to another."""
    where = f", up to line {last}," if last > line else ""
    return Rejected(line, f"the row{where} has {size} bytes, at most {max_bytes} are read (prepare.max_row_bytes)", "")


def excerpt(data: bytes) -> str:
    """The start of what could not be read, as text."""
    return data[:1000].decode("utf-8", errors="backslashreplace")
