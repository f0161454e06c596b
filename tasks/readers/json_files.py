"""JSON Lines and JSON arrays, read piece by piece: neither a huge row nor a huge file is ever held in memory."""

import re
from collections.abc import Iterator
from typing import IO

from tasks.readers.found import Raw, Rejected, excerpt, too_long, unfinished
from tasks.readers.parsing import parse

BOM = b"\xef\xbb\xbf"
PIECE = 1 << 16
"""Bytes that are read, or thrown away, at a time."""

_UNPAIRED = b"!"
_OPENS = {b"]": ord("["), b"}": ord("{")}
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+(?P<end>"?)', re.DOTALL)
_TOKEN = re.compile(rb'[{}\[\],]|"' + _INSIDE.pattern, re.DOTALL)  # a string is one: its brackets do not count


def lines(file: IO[bytes], max_bytes: int) -> Iterator[Raw | Rejected]:
    """One object a line. A line of more than `max_bytes` is skipped without being held."""
    number, windows = 0, False
    while line := file.readline(max_bytes + 2):
        number += 1
        if len(line) > max_bytes + 1 and not line.endswith(b"\n"):
            yield too_long(number, len(line) + skip_rest(file), max_bytes)
            continue
        if number == 1:
            line = line.removeprefix(BOM)
            windows = line.endswith(b"\r\n")
        if not line.strip():
            continue
        if line.endswith(b"\r\n") and not windows:
            yield Rejected(number, "the line ends in CRLF in a file of LF lines", excerpt(line))
            continue
        yield parse(line.strip(b" \t\r\n"), number)


def skip_rest(file: IO[bytes]) -> int:
    """Read on to the end of the line; returns how many bytes there were, line end not counted."""
    skipped = 0
    while piece := file.readline(PIECE):
        skipped += len(piece.rstrip(b"\r\n"))
        if piece.endswith(b"\n"):
            break
    return skipped


def elements(file: IO[bytes], max_bytes: int) -> Iterator[Raw | Rejected]:
    """Elements of a JSON array, cut at the commas of its top level, so that a broken one harms no other. But where its
    brackets do not come in pairs, nobody can say where it ends, and reading stops."""
    line, lines_of_it, size, held, closed = 1, 0, 0, bytearray(), False
    for text, mark in _cut(file):
        if not held:
            stripped = text.lstrip()
            line += text.count(b"\n", 0, len(text) - len(stripped))
            text = stripped
        lines_of_it += text.count(b"\n")
        size += len(text)
        held += text[: max(0, max_bytes + PIECE - len(held))]  # of an element that is too long the rest is counted only
        if not mark:
            if closed and held:
                break
            continue
        if mark == _UNPAIRED:
            break
        if mark != b"[":
            element = bytes(held).rstrip()
            length = len(element) if size == len(held) else size
            if length > max_bytes:
                yield too_long(line, length, max_bytes)
            elif element or mark == b",":
                yield parse(element, line)
        closed = mark == b"]"
        line, lines_of_it, size = line + lines_of_it, 0, 0
        held.clear()
    rest = bytes(held).rstrip()
    if mark == _UNPAIRED:
        yield unfinished(line, "the brackets of this element are not paired", excerpt(rest))
    elif closed and rest:
        yield unfinished(line, "text after the end of the array", excerpt(rest))
    elif not closed:
        yield unfinished(line, f"truncated JSON: {'this element' if rest else 'the array'} never ends", excerpt(rest))


def _cut(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The file cut at the marks of the array itself, `[`, `,` and `]`: what stands before a mark, and the mark.

    Where a piece of the file ends there is no mark (b""): what stood before it goes on. At a bracket that closes one of
    the other kind the mark is `_UNPAIRED`, the last one.
    """
    opened, quoted, closed, left = bytearray(), False, False, b""
    while piece := file.read(PIECE):
        piece = left + piece
        start = position = 0
        while not closed and (token := (_INSIDE.match if quoted else _TOKEN.search)(piece, position)):
            position, mark = token.end(), token.group()
            if quoted or mark[:1] == b'"':
                quoted = not token["end"]
                if quoted:
                    break  # the string goes on in the next piece
                continue
            depth = len(opened)
            if mark in b"[{":
                opened += mark
            elif mark != b"," and opened.pop() != _OPENS[mark]:
                yield piece[start : position - 1], _UNPAIRED
                return
            closed = not opened
            if min(depth, len(opened)) == 0 or (mark == b"," and depth == 1):
                yield piece[start : position - 1], b"]" if closed else mark
                start = position
        left = piece[position:] if quoted else b""  # at most a backslash, which the next piece has to explain
        yield piece[start : len(piece) - len(left)], b""
    yield left, b""
