"""Rows that are gone through again and again, and never held all together."""

import json
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rlhf.records import Row, read_rows


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of a JSON Lines file of our own making, or of all in a folder; read anew whenever they are gone through."""

    path: Path

    def __iter__(self) -> Iterator[Row]:
        return read_rows(self.path)

    def lines(self) -> Iterator[str]:
        """The rows as they are written, with their line ends."""
        for file in sorted(self.path.glob("*.jsonl")) if self.path.is_dir() else [self.path]:
            with file.open(encoding="utf-8", newline="\n") as lines:
                yield from lines


def picked(rows: Iterable[Row], wanted: Set[int]) -> Iterator[tuple[int, Row]]:
    """Rows by position, one after the other."""
    if isinstance(rows, Sequence):
        yield from ((index, rows[index]) for index in sorted(wanted))
    elif isinstance(rows, Stored):
        lines = enumerate(rows.lines()) if wanted else ()
        yield from ((index, json.loads(line)) for index, line in lines if index in wanted)
    else:
        yield from ((index, row) for index, row in enumerate(rows) if index in wanted)
