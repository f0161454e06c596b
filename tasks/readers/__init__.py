"""Read rows that others wrote: every row has its file and line, and nothing in a file can make the reader fail.

A row that cannot be read comes out as a `Rejected` with the reason, in its place among the rows. A file that cannot be
read to its end (a cut gzip or parquet file, a JSON array whose brackets are not paired, a header that names no columns)
ends with one whose rule is `unfinished`, which stops a run: what is lost with it cannot be counted. All containers are
streamed: memory does not grow with the file, and a huge row is skipped without being held.

    .jsonl, .json that starts with an object   one JSON object a line
    .json that starts with an array            one JSON object an element, at the line it starts on
    .csv, .tsv                                 a header, then rows, at the line they start on
    .parquet                                   rows by their number

each but parquet also gzipped (.gz).

Tolerated, because nothing is lost: a byte order mark at the very start of a file, a file that ends all its lines in
CRLF, blank lines. Rejected: truncated or otherwise broken JSON, broken quoting, bytes that are not UTF-8, lone
surrogates, a key or column given twice, NaN and infinity, anything but an object, a row with more or fewer cells than
the header, a byte order mark or CRLF in the middle of a file, too long a row. Texts are kept as they are, character by
character: NUL, marks of direction, joiners and combining marks too. Only comparisons look at a normal form of them
(`rlhf.records.normalised`).
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.readers import json_files, parquet, tables
from tasks.readers.found import Raw, Rejected, unfinished

__all__ = ["SUFFIXES", "Raw", "Rejected", "read"]

_PACKED = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*_PACKED, *(f"{suffix}.gz" for suffix in _PACKED), ".parquet")


def read(path: Path, max_bytes: int) -> Iterator[Raw | Rejected]:
    """Rows of one file, in order. Lines count from 1; rows of more than `max_bytes` bytes are rejected.

    Raises ValueError when the name of the file has none of the known endings; OSError when it cannot be opened.
    """
    kind = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "").removesuffix(".gz")
    if not kind:
        raise ValueError(f"{path.name}: unknown kind of file, expected a name ending in {', '.join(SUFFIXES)}")
    if kind == ".parquet":
        yield from parquet.rows(path, max_bytes)
        return
    with _open(path) as file:
        is_array = kind == ".json" and _first_byte(file) == b"["
    line = 0
    with _open(path) as file:
        try:
            if kind in (".csv", ".tsv"):
                found = tables.rows(file, "," if kind == ".csv" else "\t", max_bytes)
            else:
                found = (json_files.elements if is_array else json_files.lines)(file, max_bytes)
            for one in found:
                line = one.line
                yield one
        except (EOFError, OSError, zlib.error) as error:  # of gzip
            yield unfinished(line + 1, f"the file is broken: {error}")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _first_byte(file: IO[bytes]) -> bytes:
    """Byte by byte: of a cut gzip nothing comes where more is asked for than it holds."""
    try:
        first = file.read(1)
        if first == json_files.BOM[:1] and file.read(2):
            first = file.read(1)
        while first.isspace():
            first = file.read(1)
        return first
    except (EOFError, OSError, zlib.error):
        return b""
