"""Rows and the files they live in: JSON Lines, one row a line, keys sorted, the same bytes for the same rows.

Beside its content every row carries its provenance: `id`, `group`, `source`, `file`, `line`, `split`.
`id` is the hash of the content, so a row keeps its name wherever it goes; `group` is what a split may not cut through.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Row = dict[str, Any]

PROVENANCE = frozenset({"id", "group", "source", "file", "line", "split"})
SPLITS = ("eval", "val", "train")  # the order in which split_of cuts the unit interval

_FOREIGN_RUN = re.compile("[^\x00-\u02ff]{31,}")  # combining marks are beyond U+02FF
_JOINER = "\u034f"  # combining grapheme joiner, which is not seen and keeps the order of what stands around it


def read_rows(path: Path | str) -> Iterator[Row]:
    """Rows of one JSONL file, or of every *.jsonl in a folder in name order.

    Raises ValueError with file and line where a line is no JSON object: these are files of our own making
    (`tasks.readers` is for files that others wrote).
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    for file in files:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{file}:{number}: expected one JSON object a line, {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{file}:{number}: expected a JSON object, found {type(row).__name__}")
                yield row


def write_rows(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL with sorted keys, folders made as needed; returns how many were written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            count += 1
            file.write(row_line(row))
    return count


def row_line(row: Mapping[str, Any]) -> str:
    """One row as its line. NaN and infinity raise ValueError."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path | str, value: Any) -> None:
    """Write one JSON document with sorted keys and a newline at its end. NaN and infinity raise ValueError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def content_id(row: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of everything in the row but its provenance."""
    content = {key: value for key, value in row.items() if key not in PROVENANCE}
    return _digest(json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def normalised(text: str) -> str:
    """The text as far as "the same question" goes: NFKC, case folded, white space runs as one blank, ends stripped."""
    return " ".join(nfkc(text).casefold().split())


def nfkc(text: str) -> str:
    """Unicode's form NFKC of a text, after a joiner was put behind every 30 marks in a row (stream-safe, UAX #15).

    No language stacks that many, and putting n marks of one letter in order takes n² steps: half an hour for 200,000.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _FOREIGN_RUN.sub(_with_joiners, text))


def _with_joiners(found: re.Match[str]) -> str:
    kept: list[str] = []
    marks = 0
    for character in found.group():
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > 30:
            kept.append(_JOINER)
            marks = 1
        kept.append(character)
    return "".join(kept)


def group_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Name of the group: 16 hex digits of the sha256 of the first user message, normalised.

    All turns of a conversation, and all answers to a question, share a group and so never sit on both sides of a split.
    Without a user message the first message stands in. Raises ValueError when there is none at all.
    """
    if not messages:
        raise ValueError("a group needs at least one message, found none")
    first = next((message for message in messages if message["role"] == "user"), messages[0])
    return _digest(normalised(first["content"]))


def split_of(group: str, shares: Mapping[str, float]) -> str:
    """The split a group falls in: u = sha256(group) / 2²⁵⁶ against the shares of eval, val, train, in that order.

    No seed and no row order enters, so a group never changes sides when rows are added. Raises ValueError unless the
    shares are of eval, val and train only, none below 0, and sum to 1.
    """
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown or min(shares.values(), default=0.0) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"split shares of {', '.join(SPLITS)} must sum to 1, each at least 0; got {dict(shares)}")
    position = int(hashlib.sha256(group.encode("utf-8")).hexdigest(), 16) / 2**256
    edge = 0.0
    for split in SPLITS:
        edge += shares.get(split, 0.0)
        if position < edge:
            return split
    return next(split for split in reversed(SPLITS) if shares.get(split, 0.0) > 0)


def in_pool(rows: Iterable[Row], pool: str) -> list[Row]:
    """Prompts set aside for one use ("preference", "rl"), and those that are for any."""
    return [row for row in rows if row.get("pool", "any") in (pool, "any")]


def val_half(rows: Iterable[Row], use: Literal["rl", "selection"]) -> list[Row]:
    """The val prompts for one use: `rl` keeps its best policy by one half, the candidate is selected on the other.

    A policy chosen on prompts looks better on them than it is. The hash of a row's `id` decides, so halves never mix.
    """
    return [row for row in rows if (int(_digest(f"val half {row['id']}"), 16) % 2 == 0) == (use == "rl")]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
