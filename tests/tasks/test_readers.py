import gzip
import json

import pytest

from tasks.readers import Raw, Rejected, read

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
    with pytest.raises(ValueError, match=r"x\.parquet: .* \.jsonl"):
        list(read(tmp_path / "x.parquet", 1000))
