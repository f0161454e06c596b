"""Files of others become canonical rows: columns by other names, bad files, and nothing lost or held on the way."""

import csv
import json
import tracemalloc
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from rlhf.errors import DataRefused
from rlhf.records import read_rows, write_json
from tasks import shapes
from tasks.config.prepare import Prepare
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS
from tasks.validation.facts import facts_of

SECRET = "hf_" + "abcDEF123" * 4


def prepared(folder: Path, kind: str, path: Path | None = None, **origin):
    """Rows by kind, and the quarantine under `refused`, of one file alone."""
    for each in KINDS:
        (folder / "raw" / each).mkdir(parents=True, exist_ok=True)
        write_json(folder / "raw" / each / "origin.json", {})
    if path is not None:
        (folder / "raw" / kind / path.name).write_bytes(path.read_bytes())
        write_json(folder / "raw" / kind / "origin.json", {path.name: {"name": "mine", **origin}})
    prepare(Prepare(), raw=folder / "raw", out=folder / "out", log=Log.null())
    found = {each: list(read_rows(folder / "out" / each)) for each in KINDS}
    return found | {"refused": list(read_rows(folder / "out" / "quarantine"))}


def lines(path: Path, *values) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def table(path: Path, *rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_table_with_columns_of_its_own_becomes_pairs(tmp_path):
    path = table(
        tmp_path / "p.csv",
        ("query", "better", "worse", "strength", "who", "prompt"),
        ("Why?\nReally?", "So.", "No.", "1.5", "7", "not the question"),
        ("When?", "Now.", "", "", "", ""),
    )
    columns = {"prompt": "query", "chosen": "better", "rejected": "worse", "margin": "strength", "annotator": "who"}
    rows = prepared(tmp_path, "preferences", path, columns=columns)
    first, second = rows["preferences"]
    assert first["messages"] == [{"role": "user", "content": "Why?\nReally?"}]
    assert (first["chosen"], first["rejected"], first["margin"], first["annotator"]) == ("So.", "No.", 1.5, "7")
    assert (second["rejected"], second["margin"], second["annotator"]) == ("", None, "unknown")
    assert (first["line"], second["line"]) == (2, 4)  # a cell may go over several lines
    assert rows["refused"] == [] and len(rows["prompts"]) == 2


def test_a_swap_of_columns_is_a_swap(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"prompt": "hi", "chosen": "worse", "rejected": "better"})
    (row,) = prepared(tmp_path, "preferences", path, columns={"chosen": "rejected", "rejected": "chosen"})[
        "preferences"
    ]
    assert (row["chosen"], row["rejected"]) == ("better", "worse")


def test_cells_of_a_table_may_hold_json(tmp_path):
    turns = [{"role": "user", "content": "hi"}]
    path = table(
        tmp_path / "p.tsv.csv",
        ("messages", "completions", "ranks"),
        (json.dumps(turns), '["a", "b"]', "[2, 1]"),
        (json.dumps(turns), "[a]", "[1]"),
        (json.dumps(turns), '["a", "\\ud800"]', "[2, 1]"),
        (json.dumps(turns), '["a", "b"]', "[NaN, 1]"),
    )
    rows = prepared(tmp_path, "preferences", path)
    assert [(row["messages"], row["chosen"]) for row in rows["preferences"]] == [(turns, "b")]
    assert [(row["line"], row["rule"]) for row in rows["refused"]] == [(3, "shape"), (4, "shape"), (5, "shape")]
    reasons = [row["reason"] for row in rows["refused"]]
    assert all("expected JSON in this cell" in reason for reason in reasons) and "surrogate" in reasons[1]


def test_a_column_that_is_nowhere_is_refused_with_those_that_are(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"query": "hi", "good": "a", "bad": "b"})
    with pytest.raises(DataRefused) as refused:
        prepared(tmp_path, "preferences", path, columns={"prompt": "query", "chosen": "goood", "rejected": "bad"})
    assert str(refused.value) == (
        "preferences/p.jsonl: there is no column `goood` (collect.columns.chosen; nearest: `good`); "
        "the file has bad, good, query"
    )


def test_a_mapping_may_serve_files_of_several_kinds(tmp_path):
    """Prompts have no better answer; a file may have our name for a column that others call by theirs."""
    columns = {"prompt": "query", "chosen": "good", "label": "ok"}
    path = lines(tmp_path / "p.jsonl", {"query": "hi"}, {"prompt": "ho"})
    rows = prepared(tmp_path / "a", "prompts", path, columns=columns)
    assert [row["messages"][0]["content"] for row in rows["prompts"]] == ["hi", "ho"]
    path = lines(tmp_path / "d.jsonl", {"prompt": "hi", "completion": "a"})
    assert len(prepared(tmp_path / "b", "demonstrations", path, columns=columns)["demonstrations"]) == 1
    assert prepared(tmp_path / "c", "preferences", lines(tmp_path / "e.jsonl"), columns=columns)["preferences"] == []


def test_ratings_are_a_kind_whose_questions_are_prompts(tmp_path):
    path = table(tmp_path / "r.csv", ("prompt", "completion", "label"), ("hi", "a", "true"), ("hi", "b", "0"))
    rows = prepared(tmp_path, "ratings", path)
    assert [row["label"] for row in rows["ratings"]] == [True, False]
    assert [row["file"] for row in rows["prompts"]] == ["ratings/r.csv"]
    assert rows["ratings"][0]["split"] == rows["prompts"][0]["split"]


def test_all_rows_of_a_line_are_at_its_place_and_on_one_side(tmp_path):
    values = [{"prompt": f"q{n}", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]} for n in range(30)]
    rows = prepared(tmp_path, "preferences", lines(tmp_path / "p.jsonl", *values))["preferences"]
    assert [row["line"] for row in rows] == [line for line in range(1, 31) for _ in range(3)]
    assert len({row["id"] for row in rows}) == 90
    sides = {(row["line"], row["set"], row["group"], row["split"]) for row in rows}
    assert len(sides) == 30 and len({side[-1] for side in sides}) > 1


def test_what_a_row_says_of_its_source_is_kept_beside_the_file_s(tmp_path):
    path = lines(tmp_path / "p.jsonl", {"prompt": "hi", "source": "forum"}, {"prompt": "ho"})
    assert [row["source"] for row in prepared(tmp_path, "prompts", path)["prompts"]] == ["mine/forum", "mine"]


ODD = [
    "nul \x00 end", "\u202eoverride\u202c", "\u2067عربي\u2069 עברית", "👩\u200d🔬 👩🏽‍🚀", "e\u0301 ≠ é",
    "line \u2028 end", "\ufeffmark", "zero\u200bwidth", "<|im_start|>assistant", "<|im_\u200bend|>", "{{ 7 * 7 }}",
    "{% for x in range(10**9) %}", "＜|end|＞", "</s>[INST]", "tab\tend", "ﬁ ligature", "Z̷̛͠a̵l̶g̴o", "\U000e0041tag",
]  # fmt: skip


@pytest.mark.faults(
    43,
    injected="hostile texts in JSON lines, JSON, CSV and Parquet",
    happens="kept to the character, with one id in all four",
)
def test_a_text_is_kept_character_by_character_in_every_container(tmp_path):
    """The stated rule: nothing is normalised, so that a row has one id wherever it comes from."""
    values = [{"prompt": text, "completion": f"{text} yes"} for text in ODD]
    lines(tmp_path / "a.jsonl", *values)
    (tmp_path / "b.json").write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    table(tmp_path / "c.csv", ("prompt", "completion"), *(value.values() for value in values))
    parquet.write_table(arrow.Table.from_pylist(values), tmp_path / "d.parquet")
    found = [
        [(row["messages"], row["id"]) for row in prepared(tmp_path / name, "demonstrations", tmp_path / name2)[kind]]
        for kind in ("demonstrations",)
        for name, name2 in (("A", "a.jsonl"), ("B", "b.json"), ("C", "c.csv"), ("D", "d.parquet"))
    ]
    assert found[1:] == [found[0]] * 3
    assert [turns[0]["content"] for turns, _ in found[0]] == ODD


@pytest.mark.faults(
    43,
    injected="half a million combining marks on one letter",
    happens="the row is read, its text unchanged; another heap is another question",
)
def test_a_million_marks_on_one_letter_take_no_hours(tmp_path):
    """Putting n marks in order takes n² steps: what is compared is made stream-safe first (UAX #15)."""
    heaps = ["a" + "\u0301\u0316" * (240_000 + one) for one in (0, 0, 1)]
    rows = prepared(tmp_path, "prompts", lines(tmp_path / "p.jsonl", *({"prompt": heap} for heap in heaps)))
    assert rows["prompts"] == [] and len(rows["refused"]) == 3  # as escapes they are longer than a row may be
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"prompt": heap}, ensure_ascii=False) + "\n" for heap in heaps), "utf-8")
    first, second, third = prepared(tmp_path / "q", "prompts", path)["prompts"]
    assert first["messages"][0]["content"] == heaps[0]
    assert first["group"] == second["group"] != third["group"]


@pytest.mark.faults(
    41,
    injected="a row of 10 MB and one of 100,000 turns",
    happens="both set aside by line, naming the limit; the next row is read",
)
def test_a_huge_row_and_endless_turns_are_set_aside_by_line(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 50_000
    path = lines(tmp_path / "p.jsonl", {"prompt": "x" * 10_000_000}, {"messages": turns}, {"prompt": "hi"})
    rows = prepared(tmp_path, "prompts", path)
    assert [(row["line"], row["rule"]) for row in rows["refused"]] == [(1, "readable"), (2, "readable")]
    assert all("prepare.max_row_bytes" in row["reason"] for row in rows["refused"])
    assert [row["line"] for row in rows["prompts"]] == [3]


def test_a_line_cannot_grow_without_end(tmp_path, monkeypatch):
    """A question of 900 kB with 32 ranked answers would be 446 MB of pairs, each with a question of its own in memory:
    ten megabytes are written, and only the pair that is too many is made besides."""
    made = []
    plain = shapes.canonical
    monkeypatch.setattr(shapes, "canonical", lambda kind, value: made.append(kind) or plain(kind, value))
    bomb = {"instruction": "x" * 900_000, "input": "y", "completions": list("abcdefghijklmnopqrstuvwxyzABCDEF")}
    path = lines(tmp_path / "p.jsonl", bomb | {"ranks": list(range(32))}, {"prompt": "a", "completions": []})
    rows = prepared(tmp_path, "preferences", path)
    assert len(rows["preferences"]) == 11 and len(made) == 12
    assert [(row["line"], row["rule"]) for row in rows["refused"]] == [(1, "shape"), (2, "shape")]
    assert "more than 10000000 characters" in rows["refused"][0]["reason"]


@pytest.mark.faults(
    39, injected="ten broken lines between eleven good ones", happens="ten in quarantine by line and rule, eleven rows"
)
def test_every_line_of_a_bad_file_is_accounted_for(tmp_path):
    bad = [
        b'{"prompt": "one', b'\xef\xbb\xbf{"prompt": "two"}', b'{"prompt": "three"}\r', b'{"prompt": "\xff"}',
        rb'{"prompt": "\ud800"}', b'{"prompt": 1, "prompt": 2}', b'[{"prompt": "seven"}]', b'{"prompt": NaN}',
        b'{"prompt": null}', b"{}",
    ]  # fmt: skip
    good = [b'{"prompt": "q%d"}' % number for number in range(11)]
    mixed = [line for pair in zip(good, bad) for line in pair] + good[-1:]
    (tmp_path / "p.jsonl").write_bytes(b"\n".join(mixed) + b"\n")
    rows = prepared(tmp_path, "prompts", tmp_path / "p.jsonl")
    assert [row["line"] for row in rows["prompts"]] == list(range(1, 22, 2))
    assert [row["line"] for row in rows["refused"]] == list(range(2, 21, 2))
    assert [row["rule"] for row in rows["refused"]] == ["readable"] * 8 + ["shape"] * 2
    assert all(row["file"] == "prompts/p.jsonl" and row["source"] == "mine" for row in rows["refused"])


@pytest.mark.parametrize("before", range(150, 205, 6))
def test_no_piece_of_a_secret_is_shown_where_a_row_is_cut(tmp_path, before):
    values = [{"x": "y" * before + " " + SECRET}, {"prompt": 3, SECRET: "a"}, {"messages": "z" * before + "=" + SECRET}]
    path = lines(tmp_path / "p.jsonl", *values)
    path.write_text(path.read_text() + "{" + "y" * before + " " + SECRET + "\n")
    prepared(tmp_path, "prompts", path)
    quarantine = (tmp_path / "out/quarantine/quarantine.jsonl").read_text()
    assert quarantine.count("\n") == 4
    assert SECRET[:8] not in quarantine


@pytest.mark.parametrize("value", [
    {"prompt": f"is\n{SECRET} mine?", "completion": "yes"},
    {"prompt": "is it?", "completion": f"it is {SECRET}"},
    {"prompt": "is it?", "completion": "yes", "group": SECRET},
])  # fmt: skip
def test_a_secret_is_masked_before_anything_else_has_it(tmp_path, value):
    """The row goes on to the gate, which stops the run for what kind of secret it held."""
    rows = prepared(tmp_path, "demonstrations", lines(tmp_path / "p.jsonl", value, {"prompt": "q", "completion": "a"}))
    held, other = rows["demonstrations"]
    assert held["secret"] == "Hugging Face token" and "secret" not in other
    assert facts_of("demonstrations", held)["secret"] == "Hugging Face token"
    for path in (tmp_path / "out").rglob("*.jsonl"):
        assert SECRET not in path.read_text()


def test_rows_are_not_held_in_memory(tmp_path):
    """Two thousand more rows of 5 kB cost their ids, not the 10 MB that they are."""
    peaks = []
    for count in (200, 2200):
        path = lines(tmp_path / "p.jsonl", *({"prompt": f"{n} " + "x" * 5000, "completion": "a"} for n in range(count)))
        for each in KINDS:
            (tmp_path / "raw" / each).mkdir(parents=True, exist_ok=True)
            write_json(tmp_path / "raw" / each / "origin.json", {})
        path.replace(tmp_path / "raw/demonstrations/p.jsonl")
        write_json(tmp_path / "raw/demonstrations/origin.json", {"p.jsonl": {"name": "mine"}})
        tracemalloc.start()
        prepare(Prepare(), raw=tmp_path / "raw", out=tmp_path / "out", log=Log.null())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1_500_000, peaks


def test_a_group_may_be_a_number_and_is_never_passed_over(tmp_path):
    values = [{"prompt": "a", "group": 7}, {"prompt": "b", "group": 7.0}, {"prompt": "c", "group": ["7"]}]
    rows = prepared(tmp_path, "prompts", lines(tmp_path / "p.jsonl", *values))
    assert [row["group"] for row in rows["prompts"]] == ["7", "7"]
    assert [(row["line"], row["rule"]) for row in rows["refused"]] == [(3, "shape")]
    path = table(tmp_path / "t.csv", ("prompt", "conversation"), ("hi", "7"))
    with pytest.raises(DataRefused, match=r"no column `convo` \(collect.columns.group; nearest: `conversation`\)"):
        prepared(tmp_path / "c", "prompts", path, columns={"group": "convo"})


def test_a_question_of_pairs_that_differ_in_what_is_known_of_them_is_one_prompt(tmp_path):
    values = [{"prompt": "hi", "chosen": "a", "rejected": "b", "meta": {"words": number}} for number in (1, 2)]
    rows = prepared(tmp_path, "preferences", lines(tmp_path / "p.jsonl", *values))
    assert [row["meta"] for row in rows["preferences"]] == [{"words": 1}, {"words": 2}]
    assert [(row["line"], row["meta"]) for row in rows["prompts"]] == [(1, {})]
