"""Rows that were withdrawn: gone from what is prepared and from raw JSON Lines, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import read_rows, write_json
from tasks.collect import collect
from tasks.config import ConfigError
from tasks.config.collect import Collect
from tasks.config.prepare import Prepare
from tasks.config.withdraw import Withdraw
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS

PAIRS = [
    {"prompt": "one?", "chosen": "1", "rejected": "2", "annotator": "ada"},
    {"prompt": "two?", "chosen": "2", "rejected": "1", "annotator": "ben", "source": "forum"},
    {"prompt": "three?", "chosen": "3", "rejected": "1", "annotator": "ada", "source": "forums"},
    {"prompt": "four?", "chosen": "4", "rejected": "1", "annotator": 7},
]


Rows = list[dict[str, Any]]


def made(folder: Path, withdraw: Withdraw, kinds: tuple[str, ...] = ("preferences",)) -> dict[str, Rows]:
    """Rows by kind, after `collect` and `prepare`, of pairs that lie in the inbox for these kinds."""
    for kind in kinds:
        (folder / "inbox" / kind).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(pair) + "\n" for pair in PAIRS)
        (folder / "inbox" / kind / "p.jsonl").write_text(text)
    config = Collect(source="inbox")
    collect(config, withdraw=withdraw, inbox=folder / "inbox", out=folder / "raw", log=Log.null())
    prepare(Prepare(), withdraw=withdraw, raw=folder / "raw", out=folder / "out", log=Log.null())
    return {kind: list(read_rows(folder / "out" / kind)) for kind in [*KINDS, "quarantine"]}


def asked(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


@pytest.mark.parametrize(
    ("withdraw", "left"),
    [
        (Withdraw(), ["one?", "two?", "three?", "four?"]),
        (Withdraw(annotators=("ada",)), ["two?", "four?"]),
        (Withdraw(annotators=("7",)), ["one?", "two?", "three?"]),
        (Withdraw(sources=("p/forum",)), ["one?", "three?", "four?"]),  # not p/forums
        (Withdraw(sources=("p",)), []),
        (Withdraw(annotators=("nobody",), rows=("0" * 16,)), ["one?", "two?", "three?", "four?"]),
    ],
)
def test_what_is_left(tmp_path: Path, withdraw: Withdraw, left: list[str]) -> None:
    rows = made(tmp_path, withdraw)
    assert asked(rows["preferences"]) == left
    assert asked(rows["prompts"]) == left  # the questions of what is left
    assert rows["quarantine"] == []  # withdrawn is not refused: the gate counts nothing
    raw = (tmp_path / "raw/preferences/p.jsonl").read_text()
    assert [json.loads(line)["prompt"] for line in raw.splitlines() if line] == left
    numbers = {question: line for line, question in enumerate(["one?", "two?", "three?", "four?"], start=1)}
    assert [row["line"] for row in rows["preferences"]] == [numbers[question] for question in left]


def test_one_row_by_its_id_and_ids_of_others_stay(tmp_path: Path) -> None:
    before = made(tmp_path / "before", Withdraw())["preferences"]
    after = made(tmp_path / "after", Withdraw(rows=(before[1]["id"],)))["preferences"]
    assert after == [before[0], *before[2:]]


def test_a_prompt_that_was_made_of_a_pair(tmp_path: Path) -> None:
    before = made(tmp_path / "before", Withdraw())
    after = made(tmp_path / "after", Withdraw(rows=(before["prompts"][0]["id"],)))
    assert after["preferences"] == before["preferences"]
    assert after["prompts"] == before["prompts"][1:]


def test_the_chosen_answer_is_the_word_of_who_chose_it(tmp_path: Path) -> None:
    """Also where it serves as a demonstration, which has no annotator."""
    rows = made(tmp_path, Withdraw(annotators=("ada",)), ("preferences", "demonstrations"))
    assert asked(rows["demonstrations"]) == asked(rows["preferences"]) == ["two?", "four?"]


def test_of_a_ranked_set_only_the_pairs_that_are_meant(tmp_path: Path) -> None:
    """A line with other pairs in it stays in the raw file."""
    ranked = {"prompt": "q?", "completions": ["a", "b", "c"], "ranks": [0, 1, 2], "annotator": "ada"}
    (tmp_path / "inbox/preferences").mkdir(parents=True)
    (tmp_path / "inbox/preferences/p.jsonl").write_text(json.dumps(ranked) + "\n")

    def pairs(withdraw: Withdraw, name: str) -> list[str]:
        raw, out = tmp_path / name / "raw", tmp_path / name / "out"
        collect(Collect(source="inbox"), withdraw=withdraw, inbox=tmp_path / "inbox", out=raw, log=Log.null())
        prepare(Prepare(), withdraw=withdraw, raw=raw, out=out, log=Log.null())
        return [row["id"] for row in read_rows(out / "preferences")]

    every = pairs(Withdraw(), "all")
    assert len(every) == 3
    assert pairs(Withdraw(rows=(every[0],)), "one") == every[1:]
    assert (tmp_path / "one/raw/preferences/p.jsonl").read_bytes().strip() != b""
    assert pairs(Withdraw(rows=tuple(every)), "none") == []
    assert (tmp_path / "none/raw/preferences/p.jsonl").read_bytes() == b"\n"


def test_rows_of_a_table_are_dropped_where_they_become_rows(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / "raw" / kind).mkdir(parents=True)
        write_json(tmp_path / "raw" / kind / "origin.json", {})
    table = "prompt,chosen,rejected,annotator\nq1?,a,b,ada\nq2?,a,b,ben\n"
    (tmp_path / "raw/preferences/p.csv").write_text(table)
    write_json(tmp_path / "raw/preferences/origin.json", {"p.csv": {"name": "mine"}})
    withdraw = Withdraw(annotators=("ada",))
    prepare(Prepare(), withdraw=withdraw, raw=tmp_path / "raw", out=tmp_path / "out", log=Log.null())
    assert asked(list(read_rows(tmp_path / "out/preferences"))) == ["q2?"]


def test_what_could_not_be_read_of_a_withdrawn_source_goes_too(tmp_path: Path) -> None:
    (tmp_path / "inbox/preferences").mkdir(parents=True)
    (tmp_path / "inbox/preferences/p.jsonl").write_text('{"prompt": "a secret of mine", "chosen"\n')

    def refused(withdraw: Withdraw, name: str) -> list[dict[str, Any]]:
        raw, out = tmp_path / name / "raw", tmp_path / name / "out"
        collect(Collect(source="inbox"), withdraw=withdraw, inbox=tmp_path / "inbox", out=raw, log=Log.null())
        prepare(Prepare(), withdraw=withdraw, raw=raw, out=out, log=Log.null())
        return list(read_rows(out / "quarantine"))

    [row] = refused(Withdraw(), "with")
    assert refused(Withdraw(sources=(row["source"],)), "without") == []


def test_an_id_that_yaml_reads_as_a_number_is_not_passed_over() -> None:
    with pytest.raises(ConfigError, match=r"withdraw\.rows"):
        Withdraw.parse({"rows": [1234567890123456]}, "withdraw")
