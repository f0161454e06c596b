"""What may not be given away: the questions of the protected splits, of all kinds of data together."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlhf.records import Row
from tasks.validation.facts import place_of, questions_of, texts_of
from tasks.validation.overlap import NGRAM, Numbers, Words, number_of, runs

CHUNK = 256  # rows whose words are looked at together: as fast as more at a time, and hardly any memory
COMMONPLACE = 10  # thirteen words that more protected questions than this share are a formula, and tell nothing

_ABOVE = {"eval": ("train", "val"), "val": ("train",)}  # split → the splits it is protected from

Item = TypeVar("Item")
Seen: TypeAlias = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Context:
    """Where every group, every question and every thirteen words of a question were seen in the protected splits."""

    seen: Seen
    """split → group or question → place."""
    runs: Mapping[str, tuple[Numbers, NDArray[np.int64]]]
    """split → sorted numbers of thirteen words, and for each the position of its row in `places`."""
    places: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Context":
        """From all rows of a run, of all kinds but the corpus."""
        seen: dict[str, dict[str, str]] = {split: {} for split in _ABOVE}
        found: dict[str, list[tuple[Numbers, NDArray[np.int64]]]] = {split: [] for split in _ABOVE}
        places: list[str] = []
        words = Words()
        told: dict[str, set[int]] = {split: set() for split in _ABOVE}
        for chunk in chunks(row for row in rows if row.get("split") in _ABOVE):
            for split in _ABOVE:
                protected = [row for row in chunk if row["split"] == split]
                for row in protected:
                    for key in questions_of(row):
                        seen[split].setdefault(key, place_of(row))
                fresh = _first_asked(protected, told[split])
                numbers, owner = runs(*words.of([text for text, _ in fresh]), NGRAM)
                found[split].append((numbers, owner + len(places)))
                places += [place for _, place in fresh]
        return cls(seen, {split: _telling(pieces) for split, pieces in found.items()}, tuple(places))

    def leaks(self, kind: str, row: Row) -> dict[str, str | None]:
        """A row may share a group with rows of its own split; in a more protected one it gives an answer away."""
        split = row.get("split", "train")
        keys = questions_of(row, all_questions=kind == "corpus")
        found = {}
        for protected, above in _ABOVE.items():
            seen = self.seen[protected] if split in above else {}
            found[f"leaked_{protected}"] = next((seen[key] for key in sorted(keys) if key in seen), None)
        return found

    def overlaps(self, splits: list[str], numbers: Numbers, owner: NDArray[np.int64]) -> list[str | None]:
        """For every row the place of a protected question that shares thirteen words with it.

        Args:
            splits: of each row.
            numbers, owner: the thirteens of all rows, and which row each is of (`overlap.runs`).
        """
        found: list[str | None] = [None] * len(splits)
        for protected, above in _ABOVE.items():
            known, rows = self.runs[protected]
            if not len(known) or not len(numbers):
                continue
            at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
            hits = np.flatnonzero(known[at] == numbers)
            hit_rows, first = np.unique(owner[hits], return_index=True)
            for row, hit in zip(hit_rows.tolist(), hits[first].tolist()):
                if found[row] is None and splits[row] in above:
                    found[row] = self.places[int(rows[at[hit]])]
        return found


def spoken(kind: str, row: Row) -> str:
    """What users and assistants say in a row. System prompts are shared by many rows and are left out."""
    return "\n".join(texts_of(kind, row, ("user", "assistant")))


def _asked(row: Row) -> str:
    """What users say. Answers are not looked for: they are made of phrases that many answers share."""
    return "\n".join(message["content"] for message in row.get("messages", []) if message["role"] == "user")


def _first_asked(rows: Iterable[Row], told: set[int]) -> list[tuple[str, str]]:
    """What users say, and where, each once: many answers to one question make no formula of it."""
    fresh = []
    for row in rows:
        text = _asked(row)
        if (number := number_of(text)) not in told:
            told.add(number)
            fresh.append((text, place_of(row)))
    return fresh


def chunks(rows: Iterable[Item]) -> Iterator[list[Item]]:
    """Rows by the hundred."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _telling(pieces: list[tuple[Numbers, NDArray[Any]]]) -> tuple[Numbers, NDArray[np.int64]]:
    """Each run of words once, with the first row that has it; without formulas."""
    numbers = np.concatenate([piece[0] for piece in pieces] or [np.empty(0, np.uint64)])
    owner = np.concatenate([piece[1] for piece in pieces] or [np.empty(0, np.int64)])
    known, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    rare = counts <= COMMONPLACE
    return known[rare], owner[first[rare]]
