"""Tables, as CSV and as parquet: rows by their place, bad ones alone, and files that are no tables."""

import csv
import gzip

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.readers import Raw, Rejected, read, tables


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
        (b'a,"b" c', "broken quoting"),
        (b"a" * 2000, "2000 bytes, at most 1000"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path, header, reason):
    (tmp_path / "x.csv").write_bytes(header + b"\n1,2\n")
    (found,) = read(tmp_path / "x.csv", 1000)
    assert isinstance(found, Rejected) and (found.line, found.rule) == (1, "unfinished") and reason in found.reason


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
        assert isinstance(one, Rejected) and one.rule == "unfinished" and "the file is broken" in one.reason


def test_a_parquet_file_that_breaks_off_says_behind_which_row(tmp_path):
    path = tmp_path / "x.parquet"
    save_parquet(path, {"a": [f"{n} " + "x" * n for n in range(1000)]}, row_group_size=500, compression="none")
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    *rows, stop = read(path, 10_000)
    assert [one.line for one in rows] == list(range(1, len(rows) + 1)) and len(rows) in (256, 500)
    assert (stop.line, stop.rule) == (len(rows) + 1, "unfinished")


def test_a_column_whose_name_is_not_utf8_is_a_broken_file(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"caf\u00e9": ["a"]}), path)
    path.write_bytes(path.read_bytes().replace(b"caf\xc3\xa9", b"caf\xe5\xa9"))
    (found,) = read(path, 1000)
    assert found.rule == "unfinished" and "the file is broken" in found.reason


def test_a_column_given_twice_or_a_date_of_no_calendar_is_not_lost(tmp_path):
    twice = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["x", "x"])
    parquet.write_table(twice, tmp_path / "x.parquet")
    (one,) = read(tmp_path / "x.parquet", 1000)
    assert isinstance(one, Rejected) and one.rule == "unfinished" and "'x' is given twice" in one.reason
    save_parquet(tmp_path / "d.parquet", {"day": arrow.array([0, 2**62], arrow.timestamp("us"))})
    good, bad = read(tmp_path / "d.parquet", 1000)
    assert good == Raw(1, {"day": "1970-01-01 00:00:00"})
    assert isinstance(bad, Rejected) and bad.line == 2 and "cannot be read" in bad.reason


def test_a_stray_quote_looks_at_each_line_behind_it_once(tmp_path, monkeypatch):
    """All pairs of 2,000 lines would be two million looks: minutes for a file of some megabytes."""
    looks = []
    plain = tables._is_open
    monkeypatch.setattr(tables, "_is_open", lambda line: looks.append(line) or plain(line))
    (tmp_path / "x.csv").write_text('a,b\n"the 5" nail",ok\n' + "x,y\n" * 2000)
    bad, *rest = read(tmp_path / "x.csv", 1_000_000)
    assert (bad.line, len(rest), rest[0].line) == (2, 2000, 3)
    assert len(looks) < 5000


LONG = b"a line of a book\n" * 200  # more than three times as long as a row may be here


@pytest.mark.parametrize("rest", [b'"', b'the end, ""he"" said",', b'so",5'])
@pytest.mark.parametrize(
    "long", [LONG, b"x" * 3000 + b"\n", b"two\n" + b"x" * 3000 + b"\nfour\n", b"\xc3\xa9\n" * 1000]
)
def test_of_a_cell_that_is_too_long_no_line_is_a_row(tmp_path, long, rest):
    """Whatever its lines look like, and whichever of them is too long itself."""
    (tmp_path / "x.csv").write_bytes(b'a,b\n1,2\n"' + long + b"5,six\n" + rest + b'\n7,"eight"\n')
    before, bad, after = read(tmp_path / "x.csv", 1000)
    number = 4 + long.count(b"\n") + 1
    assert before == Raw(2, {"a": "1", "b": "2"}, True) and after == Raw(number, {"a": "7", "b": "eight"}, True)
    assert isinstance(bad, Rejected) and bad.line == 3 and "at most 1000 are read" in bad.reason


@pytest.mark.parametrize("max_bytes", [1000, 200_000])
@pytest.mark.parametrize("line", [b"a line of a book", b"x" * 80, "\u00e9".encode() * 30])
def test_whatever_the_limit_and_however_long_its_lines(tmp_path, line, max_bytes):
    """Python's csv has a limit of its own for a cell, in characters."""
    (tmp_path / "x.csv").write_bytes(b'a,b\n1,"' + (line + b"\n") * (2 * max_bytes // len(line)) + b'"\n7,eight\n')
    bad, good = read(tmp_path / "x.csv", max_bytes)
    assert isinstance(bad, Rejected) and f", up to line {good.line - 1}, has" in bad.reason
    assert good == Raw(2 * max_bytes // len(line) + 3, {"a": "7", "b": "eight"}, True)


@pytest.mark.parametrize("last", [b'"another,that is wrong', b'what 5" nail,is', b'TV 55",299', b'"a"",b'])
def test_a_quote_that_is_wrong_is_no_cell_that_is_too_long(tmp_path, last):
    """Rows behind it are read, however many there are, and whatever the next quote is."""
    (tmp_path / "x.csv").write_bytes(b'a,b\n"never closed,ok\n' + b"x,y\n" * 2000 + last + b"\n5,six\n")
    bad, *rest = read(tmp_path / "x.csv", 1000)
    assert isinstance(bad, Rejected) and (bad.line, "broken quoting" in bad.reason) == (2, True)
    assert [one.line for one in rest] == list(range(3, 2005))
    assert all(isinstance(one, Raw) for one in rest[:2000])


def test_an_inch_in_a_line_that_is_too_long_costs_that_line(tmp_path):
    (tmp_path / "x.csv").write_bytes(b'a,b\n"one",12" pipe ' + b"x" * 3000 + b"\n" + b"x,y\n" * 50)
    bad, *rest = read(tmp_path / "x.csv", 1000)
    assert isinstance(bad, Rejected) and [one.line for one in rest] == list(range(3, 53))


@pytest.mark.parametrize("cut", [False, True])
def test_a_long_cell_in_a_packed_file(tmp_path, cut):
    """What is cut off is told at the row that it cuts."""
    rows = b"".join(b"%d\n" % number for number in range(3000))
    packed = gzip.compress(b'a\n1\n"' + LONG + b'"\n2\n"never closed\n' + rows, mtime=0)
    (tmp_path / "x.csv.gz").write_bytes(packed[:-2000] if cut else packed)
    found = list(read(tmp_path / "x.csv.gz", 1000))
    assert [type(one) for one in found[:4]] == [Raw, Rejected, Raw, Rejected] and found[3].line == 205
    assert [one.line for one in found[4:]] == list(range(206, 206 + len(found) - 4))
    assert (found[-1].rule == "unfinished") == cut if isinstance(found[-1], Rejected) else not cut
    assert len(found) == 3004 or (cut and 500 < len(found) < 3000)
