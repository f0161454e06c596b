"""Read rows that others wrote: every row has its file and line, and nothing in a file can make the reader fail.

A line that cannot be read comes out as a `Rejected` with the rule and the reason, in its place among the rows.
Containers: JSON Lines (.jsonl, or .json that starts with an object) and JSON arrays (.json), each also gzipped (.gz).
JSON Lines are streamed, and a huge line is skipped without being held in memory; a JSON array is read whole.

Tolerated, because nothing is lost: a byte order mark at the very start of a file, a file that ends all its lines in
CRLF, blank lines. Rejected: truncated or otherwise broken JSON, bytes that are not UTF-8, lone surrogates, a key given
twice, NaN and infinity, anything but an object, a byte order mark or CRLF in the middle of a file, too long a row.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")

_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 16  # bytes of a huge line that are thrown away at a time
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],]', re.DOTALL)  # a string is one token: its brackets do not count


@dataclass(frozen=True, slots=True)
class Raw:
    """One JSON object as it was found."""

    line: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that could not be read."""

    line: int
    reason: str
    excerpt: str


def read(path: Path, max_bytes: int) -> Iterator[Raw | Rejected]:
    """Rows of one file, in order. Lines count from 1; an element of an array is at the line it starts on.

    Raises ValueError when the name of the file has none of the known endings; OSError when it cannot be opened.
    """
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path.name}: unknown kind of file, expected a name ending in {', '.join(SUFFIXES)}")
    with _open(path) as file:
        is_array = path.name.endswith((".json", ".json.gz")) and _first_byte(file) == b"["
    with _open(path) as file:
        try:
            yield from _elements(file.read(), max_bytes) if is_array else _lines(file, max_bytes)
        except (EOFError, OSError, gzip.BadGzipFile) as error:
            yield Rejected(1, f"the file cannot be read to its end: {error}", "")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _first_byte(file: IO[bytes]) -> bytes:
    try:
        return file.read(_PIECE).removeprefix(_BOM).lstrip()[:1]
    except (EOFError, OSError):
        return b""


def _lines(file: IO[bytes], max_bytes: int) -> Iterator[Raw | Rejected]:
    number, windows = 0, False
    while line := file.readline(max_bytes + 2):
        number += 1
        if len(line) > max_bytes + 1 and not line.endswith(b"\n"):
            size = len(line) + _skip_rest(file)
            yield Rejected(number, _too_long(size, max_bytes), "")
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
            windows = line.endswith(b"\r\n")
        if not line.strip():
            continue
        if line.endswith(b"\r\n") and not windows:
            yield Rejected(number, "the line ends in CRLF in a file of LF lines", _excerpt(line))
            continue
        yield _parse(line.strip(b" \t\r\n"), number)


def _skip_rest(file: IO[bytes]) -> int:
    skipped = 0
    while piece := file.readline(_PIECE):
        skipped += len(piece.rstrip(b"\r\n"))
        if piece.endswith(b"\n"):
            break
    return skipped


def _elements(data: bytes, max_bytes: int) -> Iterator[Raw | Rejected]:
    """Elements of a JSON array, cut at the commas of its top level, so that a broken one harms no other."""
    start, counted, line, depth, closed = data.index(b"[") + 1, 0, 1, 1, False
    for token in _STRUCTURE.finditer(data, start):
        mark = token.group()
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
        closed = depth == 0
        if closed or (mark == b"," and depth == 1):
            element = data[start : token.start()]
            begin = start + len(element) - len(element.lstrip())
            line, counted = line + data.count(b"\n", counted, begin), begin
            element = element.strip()
            if len(element) > max_bytes:
                yield Rejected(line, _too_long(len(element), max_bytes), "")
            elif element or not closed:
                yield _parse(element, line)
            start = token.end()
        if closed:
            break
    rest = data[start:].strip()
    if rest:
        begin = data.index(rest[:1], start)
        line += data.count(b"\n", counted, begin)
        yield Rejected(line, "text after the end of the array" if closed else "truncated JSON", _excerpt(rest))
    elif not closed:
        yield Rejected(line + data.count(b"\n", counted), "truncated JSON: the array is never closed", "")


class _Refused(ValueError):
    """A value that JSON readers commonly let pass and that must not."""


def _parse(data: bytes, line: int) -> Raw | Rejected:
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            return Rejected(line, "byte order mark in the middle of a file", _excerpt(data))
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate fails here
    except UnicodeDecodeError as error:
        return Rejected(line, f"not UTF-8: byte {data[error.start]:#04x} at byte {error.start + 1}", _excerpt(data))
    except UnicodeEncodeError as error:
        return Rejected(line, f"lone surrogate U+{ord(error.object[error.start]):04X}", _excerpt(data))
    except _Refused as error:
        return Rejected(line, str(error), _excerpt(data))
    except json.JSONDecodeError as error:
        truncated = "truncated JSON" if error.pos >= len(text) or "Unterminated" in error.msg else "broken JSON"
        return Rejected(line, f"{truncated}: {error.msg} at character {error.pos + 1}", _excerpt(data))
    except (ValueError, RecursionError) as error:
        return Rejected(line, f"broken JSON: {error}", _excerpt(data))
    if not isinstance(value, dict):
        return Rejected(line, f"expected a JSON object, found {_name_of(value)}", _excerpt(data))
    return Raw(line, value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON value")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused(f"the number {text[:20]} is too large")
    return value


def _name_of(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _too_long(size: int, max_bytes: int) -> str:
    return f"the row has {size} bytes, at most {max_bytes} are read (prepare.max_row_bytes)"


def _excerpt(data: bytes) -> str:
    return data[:1000].decode("utf-8", errors="backslashreplace")
