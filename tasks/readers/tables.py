"""CSV and TSV files: a header, then rows whose cells may go over several lines (RFC 4180).

Cells are separated by commas in a .csv (by semicolons where its header has these and no comma, as spreadsheets of many
countries write them), by tabs in a .tsv. A row is named by the line it starts on. Every value is a text.
"""

import csv
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import IO

from tasks.readers.found import Raw, Rejected, excerpt, too_long, unfinished
from tasks.readers.json_files import BOM, PIECE

_SOON = 64
"""Times as many bytes as a row may have, within which a cell that is too long comes to its end."""
_SURE = 10
"""So many more lines of an open cell look like rows than do not: then they are, and a quote before them is wrong."""


def rows(file: IO[bytes], separator: str, max_bytes: int) -> Iterator[Raw | Rejected]:
    """Rows under the names of the header. A row with a quote that is wrong costs as few others as can be."""
    csv.field_size_limit(max(2 * max_bytes + 4, csv.field_size_limit()))  # rows are measured here, a line behind it
    lines = _Lines(file, max_bytes)
    try:
        first = lines.peek()
    except _TooLong as error:
        yield unfinished(1, f"the header: {too_long(1, error.size, max_bytes).reason}")
        return
    if separator == "," and "," not in first and ";" in first:
        separator = ";"
    lines.separator = separator.encode()
    reader = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] = []
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong as error:
            yield too_long(lines.start, error.size, max_bytes, lines.number)
            continue
        except csv.Error as error:
            if not header:  # no other line may stand for it
                yield unfinished(lines.start, f"the header: broken quoting: {error}", _readable(lines.taken[0]))
                return
            start, first = lines.start, lines.taken[0]
            end = lines.skip_broken()
            where = "" if end == start else f", up to line {end}"
            yield Rejected(start, f"broken quoting{where}: {error}", _readable(first))
            continue
        if not cells:
            continue
        found = _row(lines.start, cells, header or cells)
        if header:
            yield found
        elif problem := found.reason if isinstance(found, Rejected) else _unfit(cells):
            yield unfinished(lines.start, f"the header: {problem}", _readable(" | ".join(cells)))
            return
        else:
            header, lines.width = cells, len(cells)


def _row(line: int, cells: list[str], header: list[str]) -> Raw | Rejected:
    """One row under the names of the header."""
    shown = " | ".join(cells)
    if not shown.isascii():
        try:
            shown.encode("utf-8")
        except UnicodeEncodeError as error:
            byte = ord(error.object[error.start]) - 0xDC00  # as `surrogateescape` keeps it
            return Rejected(line, f"not UTF-8: byte {byte:#04x}", _readable(shown))
    if len(cells) == len(header):
        return Raw(line, dict(zip(header, cells)), is_text=True)
    return Rejected(line, f"expected {len(header)} cells, found {len(cells)}", shown[:1000])


def _unfit(header: list[str]) -> str:
    """Why these names are no header; nothing where they are one."""
    unfit = next((name for name in header if not name.strip() or header.count(name) > 1), None)
    if unfit is None:
        return ""
    return f"names the column {unfit!r} twice" if unfit.strip() else "has a column without a name"


def _readable(text: str) -> str:
    return excerpt(text[:1000].encode("utf-8", "surrogateescape"))


class _TooLong(Exception):
    """A row of more bytes than are read; what is known to be its own has been passed over."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Lines:
    """Lines of a file as text, which can be taken back: bytes that are no UTF-8 are kept as surrogates."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self.file, self.max_bytes = file, max_bytes
        self.separator = b","
        self.width = 0
        """Columns of the header, once it is read."""
        self.number = 0
        """Of the last line that was given."""
        self.start = 1
        """Of the row that is being read."""
        self.taken: list[str] = []
        """Lines of this row so far."""
        self.size = 0
        self.again: deque[str] = deque()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.size > self.max_bytes:
            if rest := self._pass_cell():
                raise _TooLong(self.size + rest)
            raise csv.Error(f"the row goes on for more than {self.max_bytes} bytes (prepare.max_row_bytes)")
        return self._take()

    def _take(self) -> str:
        line = self.again.popleft() if self.again else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        self.size += len(line) if line.isascii() else len(_bytes(line))
        return line

    def _read(self) -> str:
        data = self.file.readline(self.max_bytes + 2)
        if len(data) > self.max_bytes + 1 and not data.endswith(b"\n"):
            self.number += 1
            line = _measured(chain([data], self._pieces()), self.separator)
            assert line is not None
            quotes = sum(text.count('"') for text in self.taken) + line.quotes
            is_open = (self.taken or line.opens) and quotes % 2
            raise _TooLong(self.size + line.size + (self._pass_cell() if is_open else 0))
        if self.number == 0:
            data = data.removeprefix(BOM)
        return data.decode("utf-8", "surrogateescape")

    def _pass_cell(self) -> int:
        """Read on to the line that closes the cell, and hold nothing of it; returns the bytes.

        Nothing is passed over, and it is 0, where the cell was opened by a quote that is wrong: its lines are rows, no
        line closes it so soon, or the next quote closes none.
        """
        again, back, number = deque(self.again), self.file.tell(), self.number
        seen = Counter(self._is_row(_measured(iter([_bytes(line)]), self.separator)) for line in self.taken[1:])
        passed = 0
        with suppress(EOFError, OSError, zlib.error):  # of gzip: told where it is read again
            while seen[True] < seen[False] + _SURE and passed <= _SOON * self.max_bytes:
                line = _measured(self._pieces(), self.separator)
                if line is None:
                    break
                self.number += 1
                passed += line.size
                if line.quotes % 2 and line.closes:
                    return passed
                if line.quotes % 2:
                    break
                seen[self._is_row(line)] += 1
        self.again, self.number = again, number
        self.file.seek(back)
        return 0

    def _is_row(self, line: "_Measured | None") -> bool:
        """Whether a line has as many cells as the header has, and that is more than one."""
        return line is not None and self.width > 1 and line.separators + 1 == self.width

    def _pieces(self) -> Iterator[bytes]:
        """Of the next line, however long it is."""
        if self.again:
            yield _bytes(self.again.popleft())
        else:
            while piece := self.file.readline(PIECE):
                yield piece

    def peek(self) -> str:
        """The next line, which is given all the same."""
        line = self._read()
        if line:
            self.again.appendleft(line)
        return line

    def begin(self) -> None:
        """A row begins with the next line."""
        self.start, self.taken, self.size = self.number + 1, [], 0

    def skip_broken(self) -> int:
        """Go on behind a row that could not be read; returns the last line that is given up with it.

        That is its first line alone, and what follows is read again. But where its quotes do not come in pairs, a cell
        was open at its end: lines up to the next such one are the rest of that cell, not rows.
        """
        lines, last = self.taken, 0
        if _is_open(lines[0]):
            last = next((index for index, line in enumerate(lines[1:], start=1) if _is_open(line)), 0)
            try:
                while not last and self.size <= self.max_bytes:
                    back = self.file.tell()
                    if _is_open(self._take()):
                        last = len(lines) - 1
            except StopIteration:
                pass
            except _TooLong:  # a row of its own, perhaps
                self.file.seek(back)
        self.again.extendleft(reversed(lines[last + 1 :]))
        self.number = self.start + last
        return self.number


def _is_open(line: str) -> bool:
    return line.count('"') % 2 == 1


def _bytes(line: str) -> bytes:
    return line.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is to be known of a line that is not held."""

    size: int
    """Bytes, the line's end not counted."""
    quotes: int
    separators: int
    opens: bool
    """Whether a quote may open a cell."""
    closes: bool


def _measured(pieces: Iterator[bytes], separator: bytes) -> _Measured | None:
    """The next line of these pieces; None where there is none."""
    size = quotes = separators = 0
    opens = closes = False
    before = b""
    for piece in pieces:
        joined = before + piece
        opens = opens or separator + b'"' in joined or (not before and piece.startswith(b'"'))
        closes = closes or any(b'"' + end in joined for end in (separator, b"\n", b"\r\n"))
        size, quotes = size + len(piece.rstrip(b"\r\n")), quotes + piece.count(b'"')
        separators, before = separators + piece.count(separator), piece[-2:]
        if piece.endswith(b"\n"):
            break
    return _Measured(size, quotes, separators, opens, closes or before.endswith(b'"')) if before else None
