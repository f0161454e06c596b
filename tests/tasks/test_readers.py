import csv
import gzip
import io
import json
import tracemalloc

import pyarrow as arrow
import pyarrow.parquet as parquet
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
    assert [found.line for found in read(tmp_path / "x.json", 1000) if isinstance(found, Rejected)] == lines


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"[ ]\n"])
def test_nothing_in_a_file_is_no_rows(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert list(read(tmp_path / "x.json", 1000)) == []


def test_windows_files_are_read_and_mixtures_are_not(tmp_path):
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")
    assert [type(found) for found in read(tmp_path / "windows.jsonl", 1000)] == [Raw, Raw]
    (tmp_path / "mixed.jsonl").write_bytes(GOOD + b"\n" + GOOD + b"\r\n\xef\xbb\xbf" + GOOD + b"\n" + GOOD)
    found = list(read(tmp_path / "mixed.jsonl", 1000))
    assert [(item.line, type(item)) for item in found] == [(1, Raw), (2, Rejected), (3, Rejected), (4, Raw)]
    assert "CRLF" in found[1].reason and "byte order mark" in found[2].reason


def test_gzip_is_read_and_a_cut_one_is_said_to_be(tmp_path):
    packed = gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(5000)))
    (tmp_path / "x.jsonl.gz").write_bytes(packed)
    assert [found.value["a"] for found in read(tmp_path / "x.jsonl.gz", 1000)] == list(range(5000))
    (tmp_path / "x.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "cannot be read to its end" in list(read(tmp_path / "x.jsonl.gz", 1000))[-1].reason


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


def test_rows_of_a_table_are_named_by_the_line_they_start_on(tmp_path):
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n3,\r\n')
    found = list(read(tmp_path / "x.csv", 1000))
    assert found == [Raw(2, {"a": "1", "b": 'two\r\nlines, "quoted"'}, True), Raw(5, {"a": "3", "b": ""}, True)]
    (tmp_path / "x.tsv").write_bytes(b"a\tb\n1,2\tit's 5\" wide\n")
    assert list(read(tmp_path / "x.tsv", 1000)) == [Raw(2, {"a": "1,2", "b": "it's 5\" wide"}, True)]
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a;b\n1;2,5\n"))
    assert list(read(tmp_path / "x.csv.gz", 1000)) == [Raw(2, {"a": "1", "b": "2,5"}, True)]


CELLS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS.filter(bool)), max_size=5))
def test_a_table_is_read_as_it_was_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b", "c"), *rows])
    assert [tuple(one.value.values()) for one in read(path, 10_000)] == rows


@pytest.mark.parametrize(
    ("bad", "reason", "last"),
    [
        (b'1,"two" three', "broken quoting", 2),
        (b'1,"never closed', "broken quoting", 2),
        (b'1,"said "so" to\nsomebody, twice"', "broken quoting, up to line 3", 3),
        (b"1", "expected 2 cells, found 1", 2),
        (b"1,2,3", "expected 2 cells, found 3", 2),
        (b"1,\xff", "not UTF-8: byte 0xff", 2),
        (b'1,"\xff" two', "broken quoting", 2),
        (b'1,"a\n\xe9"', "not UTF-8: byte 0xe9", 3),
    ],
)
def test_a_bad_row_of_a_table_costs_no_other(tmp_path, bad, reason, last):
    (tmp_path / "x.csv").write_bytes(b"a,b\n" + bad + b'\n5,six\n7,"eight"\n')
    found = list(read(tmp_path / "x.csv", 1000))
    assert isinstance(found[0], Rejected) and (found[0].line, reason in found[0].reason) == (2, True)
    found[0].excerpt.encode("utf-8")  # it is written to the quarantine
    assert found[1:] == [Raw(last + 1, {"a": "5", "b": "six"}, True), Raw(last + 2, {"a": "7", "b": "eight"}, True)]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"a,a", "'a' twice"),
        (b"a,", "column without a name"),
        (b"a,\xff", "not UTF-8"),
        (b"a" * 2000, "2000 bytes, at most 1000"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path, header, reason):
    (tmp_path / "x.csv").write_bytes(header + b"\n1,2\n")
    (found,) = read(tmp_path / "x.csv", 1000)
    assert isinstance(found, Rejected) and found.line == 1 and reason in found.reason


def save_parquet(path, columns, **options):
    parquet.write_table(arrow.table(columns), path, **options)


def test_parquet_is_read_by_its_rows(tmp_path):
    values = [{"n": n, "turns": [{"role": "user", "content": f"é {n}"}]} for n in range(700)]
    parquet.write_table(arrow.Table.from_pylist(values), tmp_path / "x.parquet", row_group_size=300)
    found = list(read(tmp_path / "x.parquet", 1000))
    assert [one.value for one in found] == values
    assert [one.line for one in found] == list(range(1, 701))


def test_what_json_cannot_hold_is_missing_or_rejected(tmp_path):
    nan, infinity = float("nan"), float("inf")
    save_parquet(
        tmp_path / "x.parquet", {"margin": [1.5, nan, infinity], "day": arrow.array([0, 1, 2], arrow.date32())}
    )
    first, missing, bad = read(tmp_path / "x.parquet", 1000)
    assert first == Raw(1, {"margin": 1.5, "day": "1970-01-01"})
    assert missing == Raw(2, {"margin": None, "day": "1970-01-02"})
    assert isinstance(bad, Rejected) and bad.line == 3 and "JSON cannot hold" in bad.reason
    save_parquet(tmp_path / "b.parquet", {"image": [b"\x89PNG"]})
    assert [type(one) for one in read(tmp_path / "b.parquet", 1000)] == [Rejected]


def test_a_bad_row_of_a_parquet_file_costs_no_other(tmp_path):
    texts = arrow.array([b"one", b"\xff", b"x" * 5000, b"four"]).view(arrow.string())
    save_parquet(tmp_path / "x.parquet", {"a": texts})
    found = list(read(tmp_path / "x.parquet", 1000))
    assert [type(one) for one in found] == [Raw, Rejected, Rejected, Raw]
    assert "not UTF-8" in found[1].reason and "at most 1000" in found[2].reason
    whole = (tmp_path / "x.parquet").read_bytes()
    for broken in (whole[:-30], b"PAR1" + b"x" * 50, b""):
        (tmp_path / "y.parquet").write_bytes(broken)
        (one,) = read(tmp_path / "y.parquet", 1000)
        assert isinstance(one, Rejected) and "cannot be read to its end" in one.reason
