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
    """One row that could not be read."""

    line: int
    reason: str
    excerpt: str


def too_long(line: int, size: int, max_bytes: int) -> Rejected:
    """A row that was skipped for its size."""
    return Rejected(line, f"the row has {size} bytes, at most {max_bytes} are read (prepare.max_row_bytes)", "")


def excerpt(data: bytes) -> str:
    """The start of what could not be read, as text."""
    return data[:1000].decode("utf-8", errors="backslashreplace")
