import hashlib
import json
import unicodedata

import pytest

from rlhf.records import content_id, group_of, nfkc, read_rows, split_of, write_json, write_rows


def test_rows_come_back_in_order_and_bytes_do_not_depend_on_key_order(tmp_path):
    rows = [
        {"b": "zwölf ✓", "a": 1},
        {"a": None, "b": "one\u2028two"},
    ]  # U+2028 ends a line for str.splitlines, not for us
    assert write_rows(tmp_path / "deep" / "x.jsonl", rows) == 2
    assert list(read_rows(tmp_path / "deep" / "x.jsonl")) == rows
    write_rows(tmp_path / "y.jsonl", [dict(reversed(row.items())) for row in rows])
    assert (tmp_path / "y.jsonl").read_bytes() == (tmp_path / "deep" / "x.jsonl").read_bytes()
    assert (
        tmp_path / "y.jsonl"
    ).read_bytes() == '{"a": 1, "b": "zwölf ✓"}\n{"a": null, "b": "one\u2028two"}\n'.encode()


def test_a_folder_is_read_in_name_order(tmp_path):
    write_rows(tmp_path / "b.jsonl", [{"n": 2}])
    write_rows(tmp_path / "a.jsonl", [{"n": 1}])
    (tmp_path / "notes.txt").write_text("no row")
    assert [row["n"] for row in read_rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_broken_file_of_ours_is_named_with_its_line(tmp_path, line):
    (tmp_path / "x.jsonl").write_text('{"n": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"x\.jsonl:2: expected"):
        list(read_rows(tmp_path / "x.jsonl"))


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_rows(tmp_path / "x.jsonl", [{"loss": float("inf")}])


def test_an_id_is_of_the_content_alone():
    row = {"text": "hello", "id": "x", "file": "a", "line": 3, "split": "val", "group": "g", "source": "s"}
    by_hand = hashlib.sha256(b'{"text":"hello"}').hexdigest()[:16]
    assert content_id(row) == content_id({"text": "hello"}) == by_hand
    assert content_id({"text": "hello "}) != by_hand


def test_a_group_is_the_first_user_message_whatever_its_looks():
    def question(text):
        return [{"role": "system", "content": "be kind"}, {"role": "user", "content": text}]

    group = group_of(question("What is  two\nplus two?"))
    assert group == group_of(question(" what is TWO plus two? ")) == group_of(question("what is two plus ｔwo?"))
    assert group == group_of([*question("What is two plus two?"), {"role": "assistant", "content": "four"}])
    assert group != group_of(question("What is two plus three?"))
    assert group_of([{"role": "assistant", "content": "hello"}]) == group_of(
        [{"role": "assistant", "content": "Hello"}]
    )
    with pytest.raises(ValueError, match="at least one message"):
        group_of([])


def test_splits_have_their_shares_and_only_move_at_the_edge():
    groups = [f"g{n}" for n in range(20_000)]
    narrow = {group: split_of(group, {"train": 0.8, "val": 0.1, "eval": 0.1}) for group in groups}
    for split, share in (("train", 0.8), ("val", 0.1), ("eval", 0.1)):
        count = sum(found == split for found in narrow.values())
        assert count / len(groups) == pytest.approx(share, abs=0.0085)  # four standard errors of the widest
    wide = {group: split_of(group, {"train": 0.7, "val": 0.2, "eval": 0.1}) for group in groups}
    moved = {(narrow[group], wide[group]) for group in groups if narrow[group] != wide[group]}
    assert moved == {("train", "val")}
    assert {split_of(group, {"train": 1.0}) for group in groups[:100]} == {"train"}


def test_a_split_is_where_the_hash_falls():
    position = int(hashlib.sha256(b"g").hexdigest(), 16) / 2**256
    assert split_of("g", {"eval": position + 0.01, "train": 0.99 - position}) == "eval"
    assert split_of("g", {"eval": position - 0.01, "train": 1.01 - position}) == "train"


@pytest.mark.parametrize("shares", [{"train": 0.9}, {"train": 1.2, "val": -0.2}, {"train": 0.5, "test": 0.5}, {}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="must sum to 1"):
        split_of("g", shares)


def test_json_documents_are_canonical(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": "é", "b": 1}


def test_many_marks_on_one_letter_are_compared_in_no_time_and_not_taken_for_others():
    """Unicode's stream-safe form: up to 30 marks NFKC is what it always was, beyond that order is kept in pieces."""
    few = "e" + "\u0301\u0316" * 15
    assert nfkc(few) == unicodedata.normalize("NFKC", few) != few
    for text in ("ﬁ Å ½", "漢字" * 40, "한국어" * 20, "é" * 100, "plain"):
        assert nfkc(text) == unicodedata.normalize("NFKC", text)
    many = "e" + "\u0301\u0316" * 250_000  # half an hour for unicodedata alone
    assert nfkc(many) != nfkc(many + "\u0301")
    assert len(nfkc(many).replace("\u034f", "")) == len(many) - 1  # the first acute is part of é
