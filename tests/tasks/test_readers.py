import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.readers import Raw, Rejected, json_files, read

GOOD = b'{"a": 1}'
BAD = {  # what stands in the line, and a word of the reason
    "truncated": (b'{"a": "one', "truncated"),
    "truncated after a comma": (b'{"a": 1,', "truncated"),
    "broken": (b'{"a" 1}', "broken"),
    "bad UTF-8": (b'{"a": "\xff"}', "not UTF-8: byte 0xff"),
    "surrogate in bytes": (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    "surrogate as escape": (rb'{"a": "\ud800"}', "lone surrogate U+D800"),
    "key given twice": (b'{"a": 1, "b": {"a": 1, "a": 2}}', "'a' is given twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "infinity": (b'{"a": -Infinity}', "-Infinity"),
    "overflow": (b'{"a": 1e999}', "too large"),
    "array": (b'[{"a": 1}]', "found an array"),
    "string": (b'"a"', "found a string"),
    "null": (b"null", "found null"),
    "number": (b"7", "found a number"),
    "deep": (b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", "broken"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", "broken"),
    "huge": (b'{"a": "' + b"x" * 30_000 + b'"}', "30009 bytes"),
}


@pytest.mark.faults(
    39,
    injected="lines cut short, not UTF-8, with lone surrogates, doubled keys, NaN, arrays",
    happens="each is set aside with its line and why; its neighbours are read",
)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_its_neighbours_are_read(tmp_path, name):
    line, reason = BAD[name]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([GOOD, line, b"", GOOD]))
    first, bad, last = read(tmp_path / "x.jsonl", max_bytes=20_000)
    assert first == Raw(1, {"a": 1})
    assert last == Raw(4, {"a": 1})
    assert isinstance(bad, Rejected)
    assert bad.line == 2 and reason in bad.reason


@pytest.mark.parametrize("name", sorted(set(BAD) - {"truncated", "truncated after a comma"}))
def test_a_bad_element_of_an_array_is_named_by_the_line_it_starts_on(tmp_path, name):
    element, reason = BAD[name]
    (tmp_path / "x.json").write_bytes(b"[\n" + GOOD + b",\n\n  " + element + b"\n,\n" + GOOD + b"]\n")
    first, bad, last = read(tmp_path / "x.json", max_bytes=20_000)
    assert first == Raw(2, {"a": 1})
    assert isinstance(bad, Rejected)
    assert bad.line == 4 and reason in bad.reason
    assert last == Raw(6, {"a": 1})


def test_an_array_is_cut_at_its_own_commas_only(tmp_path):
    values = [{"a": "x], [y}, {"}, {"b": [1, [2, {"c": '"'}]]}, {"d": "\\"}]
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert [found.value for found in read(tmp_path / "x.json", 1000)] == values


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b'[\n{"a": 1},\n{"a":', [3]),
        (b'[\n{"a": 1}\n', [2]),
        (b'[{"a": 1},\n', [2]),
        (b"[", [1]),
        (b'[{"a": 1}]\nmore', [2]),
    ],
)
def test_an_array_that_does_not_end_well_is_said_to(tmp_path, text, lines):
    (tmp_path / "x.json").write_bytes(text)
    stops = [found for found in read(tmp_path / "x.json", 1000) if isinstance(found, Rejected)]
    assert [(one.line, one.rule) for one in stops] == [(line, "unfinished") for line in lines]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"[ ]\n"])
def test_nothing_in_a_file_is_no_rows(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert list(read(tmp_path / "x.json", 1000)) == []


@pytest.mark.faults(
    39,
    injected="byte order mark and CRLF, of a whole file and of single lines",
    happens="whole files are read; single lines are set aside with their number",
)
def test_windows_files_are_read_and_mixtures_are_not(tmp_path):
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")
    assert [type(found) for found in read(tmp_path / "windows.jsonl", 1000)] == [Raw, Raw]
    (tmp_path / "mixed.jsonl").write_bytes(GOOD + b"\n" + GOOD + b"\r\n\xef\xbb\xbf" + GOOD + b"\n" + GOOD)
    found = list(read(tmp_path / "mixed.jsonl", 1000))
    assert [(item.line, type(item)) for item in found] == [(1, Raw), (2, Rejected), (3, Rejected), (4, Raw)]
    assert "CRLF" in found[1].reason and "byte order mark" in found[2].reason


@pytest.mark.parametrize(
    ("name", "start", "row"),
    [("x.jsonl.gz", b"", b'{"a": "%d"}\n'), ("x.csv.gz", b"a\n", b"%d\n"), ("x.json.gz", b"[\n", b'{"a": "%d"},\n')],
)
def test_a_cut_gzip_is_said_to_end_where_reading_stopped(tmp_path, name, start, row):
    whole = start + b"".join(row % n for n in range(40_000)) + (b'{"a": "40000"}]' if b"[" in start else b"")
    packed = gzip.compress(whole)
    (tmp_path / name).write_bytes(packed)
    assert [int(found.value["a"]) for found in read(tmp_path / name, 1000)][:40_000] == list(range(40_000))
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    *rows, stop = read(tmp_path / name, 1000)
    assert len(rows) > 5000 and all(isinstance(one, Raw) for one in rows)
    assert (stop.rule, stop.line) == ("unfinished", rows[-1].line + 1)
    assert f"reading stopped at line {stop.line}: the file is broken" in stop.reason


def test_of_a_small_array_that_is_cut_no_line_becomes_a_row_or_a_refusal(tmp_path):
    packed = gzip.compress(b'[\n{"a": 1},\n{"a": 2}\n]')
    (tmp_path / "x.json.gz").write_bytes(packed[:-8])
    assert [one.rule for one in read(tmp_path / "x.json.gz", 1000) if isinstance(one, Rejected)] == ["unfinished"]


@pytest.mark.parametrize(
    "bad", [b'{"a": [1}', b'{"a": 1}}', b'{"a": ]}', b'{"a": {"b": 1}', b'[{"a": 1]}', b'{"a": "one}', b'{"a": [1}]}']
)
def test_behind_brackets_that_are_not_paired_nothing_is_told_apart(tmp_path, bad):
    """None of the thousand rows behind it may pass as one refusal; of those before it none is lost."""
    (tmp_path / "x.json").write_bytes(b"[\n" + b",\n".join([GOOD] * 3 + [bad] + [GOOD] * 1000) + b"\n]\n")
    found = list(read(tmp_path / "x.json", 1000))
    assert [one.line for one in found if isinstance(one, Raw)][:3] == [2, 3, 4]
    assert len(found) <= 5
    stop = found[-1]
    assert isinstance(stop, Rejected) and stop.rule == "unfinished"
    assert stop.line == 5 and "reading stopped at line 5" in stop.reason


def test_text_is_left_as_it_is(tmp_path):
    text = "nul \x00 bidi \u202e zwj 👩\u200d🔬 combining e\u0301 line \u2028 end"
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": text}) + "\n" + json.dumps({"a": text}, ensure_ascii=False))
    assert [found.value["a"] for found in read(tmp_path / "x.jsonl", 1000)] == [text, text]


def test_other_kinds_of_file_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"x\.xlsx: .* \.jsonl"):
        list(read(tmp_path / "x.xlsx", 1000))
    with pytest.raises(OSError, match="No such file"):
        list(read(tmp_path / "x.parquet", 1000))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["\\", '"', "]},{[", '\\"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=6), piece=st.integers(4, 40))
def test_an_array_is_the_same_however_it_is_cut_into_pieces(rows, piece):
    """Strings, escapes and elements that go over the end of a piece, against a reader that has it all at once."""
    whole = json_files.PIECE
    json_files.PIECE = piece
    try:
        for text in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=2)):
            found = list(json_files.elements(io.BytesIO(text.encode()), 10_000))
            assert [one.value for one in found] == rows
            lines = text.split("\n")
            assert all(lines[one.line - 1].lstrip(" [").startswith("{") for one in found)
    finally:
        json_files.PIECE = whole


@pytest.mark.faults(
    41,
    injected="a row of 10 MB in JSON, an array, CSV and TSV",
    happens="set aside with its size; under 1 MB of memory",
)
@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("x.json", b'[{"a": 1}, {"a": "', b'"}, {"a": 1}]'),
        ("x.json", b'[{"a": 1}, {"a": [' + b"1," * 99, b'2]}, {"a": 1}]'),
        ("x.jsonl", b'{"a": 1}\n{"a": "', b'"}\n{"a": 1}\n'),
        ("x.csv", b'a\n1\n"', b'"\n1\n'),
        ("x.tsv", b"a\n1\n", b"\n1\n"),
    ],
)
def test_a_huge_row_is_skipped_and_never_held(tmp_path, name, start, end):
    (tmp_path / name).write_bytes(start + b"x" * 10_000_000 + end)
    tracemalloc.start()
    found = list(read(tmp_path / name, 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(one) for one in found] == [Raw, Rejected, Raw]
    assert "at most 20000 are read (prepare.max_row_bytes)" in found[1].reason
    assert found[1].excerpt == "" and peak < 1_000_000
