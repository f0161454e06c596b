"""Withdrawn rows where raw lines become rows: which lines give nothing else, and whose word a row is.

`prepare` drops withdrawn rows whatever file they come in. `collect` takes them out of its copies of JSON Lines too, so
that no version of the data holds them: the line is left empty, and the lines behind it keep their numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.records import content_id
from tasks.config.withdraw import Withdraw
from tasks.readers.found import Rejected
from tasks.readers.parsing import parse
from tasks.shapes import Malformed, canonical_rows
from tasks.shapes.columns import renamed


def source_of(file_source: str, value: Mapping[str, Any]) -> str:
    """A line that knows where it is from adds its `source` to that of the file."""
    own = value.get("source")
    return f"{file_source}/{own}" if isinstance(own, str) and own else file_source


def reason(withdraw: Withdraw, kind: str, row: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Why a row of this line is withdrawn, "" where it is not. A demonstration that is the chosen answer of a pair is
    the word of who chose it."""
    found = withdraw.reason(row)
    if found or kind != "demonstrations" or not withdraw.annotators:
        return found
    pairs = (pair for pair in canonical_rows("preferences", value) if not isinstance(pair, Malformed))
    return next(filter(None, (withdraw.reason({"annotator": pair["annotator"]}) for pair in pairs)), "")


def blank(path: Path, kind: str, origin: Mapping[str, Any], withdraw: Withdraw) -> int:
    """Empty the lines of a JSON Lines file all of whose rows are withdrawn; returns how many. A file in another form is
    left as it is: `prepare` drops its rows."""
    if path.suffix != ".jsonl" or not (withdraw.sources or withdraw.annotators or withdraw.rows):
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    gone = [number for number, line in enumerate(lines) if _is_withdrawn(line, kind, origin, withdraw)]
    for number in gone:
        lines[number] = b"\r\n" if lines[number].endswith(b"\r\n") else b"\n"
    if gone:
        path.write_bytes(b"".join(lines))
    return len(gone)


def _is_withdrawn(line: bytes, kind: str, origin: Mapping[str, Any], withdraw: Withdraw) -> bool:
    if not line.strip() or withdraw.reason({"source": origin["name"]}):
        return bool(line.strip())
    found = parse(line.strip(b" \t\r\n"), 1)
    if isinstance(found, Rejected):
        return False
    value = renamed(found.value, origin.get("columns") or {})
    source = source_of(str(origin["name"]), value)
    rows = list(canonical_rows(kind, value))
    return all(
        not isinstance(row, Malformed)
        and reason(withdraw, kind, row | {"id": content_id(row), "source": source}, value) != ""
        for row in rows
    )
