"""Files with a share of bad rows among good ones, from reading to the verdict of the gate."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataRefused
from rlhf.records import Row, read_rows, write_json
from tasks.config.prepare import Prepare
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS
from tasks.validate import judge, validate
from tasks.validation import Verdict

EXPECTATIONS = Path(__file__).parents[2] / "data" / "expectations"
Told = dict[str, Any]


def prepared(folder: Path, kind: str, files: Mapping[str, Iterable[Row]]) -> Path:
    """Files of one kind of data, by their names, through `prepare`; all rows are for training."""
    for each in KINDS:
        origins = {f"{name}.jsonl": {"name": name} for name in files} if each == kind else {}
        write_json(folder / "raw" / each / "origin.json", origins)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "raw" / kind / f"{name}.jsonl").write_text(text, "utf-8")
    prepare(Prepare(eval_share=0, val_share=0), raw=folder / "raw", out=folder / "prepared", log=Log.null())
    return folder / "prepared"


def verdict(prepared: Path, kind: str) -> tuple[Verdict, dict[str, Any]]:
    """What the gate says of it, and by rule."""
    found = judge(Validate(required=(kind,)), prepared, EXPECTATIONS)[kind]  # type: ignore[arg-type]
    return found, {rule.rule: rule for rule in found.rules}


def demonstrations(count: int, seed: int = 0) -> list[Row]:
    """Two hundred different words in answer to each question."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(5000)]
    return [
        {"prompt": f"Tell me of {seed}/{number}.", "completion": " ".join(rng.sample(words, 200))}
        for number in range(count)
    ]


@pytest.mark.faults(
    44,
    injected="six copies to a hundred rows",
    happens="each is set aside, naming what it is a copy of; above validate.max_quarantine_share the run stops",
)
@pytest.mark.slow
def test_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOW_REPORTS", str(tmp_path / "reports"))
    rows = demonstrations(400)
    folder = prepared(tmp_path, "demonstrations", {"mine": [*rows, *rows[:24]]})
    found, _ = verdict(folder, "demonstrations")
    assert [(one.line, one.rule) for one in found.quarantined] == [(401 + n, "duplicate") for n in range(24)]
    assert found.quarantined[0].reason == "same as demonstrations/mine.jsonl:1"
    given: Told = {"prepared": folder, "expectations": EXPECTATIONS, "out": tmp_path / "out", "log": Log.null()}
    with pytest.raises(DataRefused, match=r"24 of 424 rows set aside \(5\.7%\), at most 5\.0% .*duplicate 24"):
        validate(Validate(required=("demonstrations",)), **given)
    assert not (tmp_path / "out/demonstrations").exists()
    validate(Validate(required=("demonstrations",), max_quarantine_share=0.06), **given)
    assert len(list(read_rows(tmp_path / "out/demonstrations/train.jsonl"))) == 400


@pytest.mark.faults(
    44,
    injected="five rows in a hundred again with one word of two hundred changed, under another question",
    happens="noted as near duplicates, each naming its original",
)
@pytest.mark.slow
def test_near_copies(tmp_path: Path) -> None:
    rows = demonstrations(400)
    near = [
        {"prompt": f"Again {number}?", "completion": " ".join(["other", *row["completion"].split()[1:]])}
        for number, row in enumerate(rows[:20])
    ]
    found, rules = verdict(prepared(tmp_path, "demonstrations", {"mine": rows, "more": near}), "demonstrations")
    assert rules["near_duplicate"].broken == 20
    assert rules["near_duplicate"].examples[0].reason == "nearly the same as demonstrations/mine.jsonl:1"
    assert (found.stopped, found.quarantined, found.clean) == ([], [], 420)


def pairs(count: int, seed: int = 1) -> Iterator[Row]:
    """Good answers say `z` more often than bad ones; three people judge in turn."""
    rng = random.Random(seed)
    for number in range(count):
        good, bad = (" ".join(rng.choices("abcdefghij" + "z" * weight, k=8)) for weight in (6, 1))
        who = ("ann", "ben", "cleo")[number % 3]
        yield {"prompt": f"Question {seed}/{number}?", "chosen": good, "rejected": bad, "annotator": who}


def turned(row: Row) -> Row:
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


@pytest.mark.faults(
    45,
    injected="ten pairs in a hundred with equal or blank answers, or judged both ways by one person",
    happens="all of them are set aside, of contradictions both sides; above the limit the run stops",
)
@pytest.mark.slow
def test_pairs_that_teach_nothing(tmp_path: Path) -> None:
    rows = list(pairs(600))
    same = [row | {"rejected": f" {row['chosen']} "} for row in pairs(20, seed=2)]
    blank = [row | {"chosen": " \n"} for row in pairs(10, seed=3)]
    twice = [turned(row) for row in rows[:15]]
    found, _ = verdict(prepared(tmp_path, "preferences", {"a": rows, "b": [*same, *blank, *twice]}), "preferences")
    told = sorted((one.file, one.line, one.rule) for one in found.quarantined)
    expected = [("preferences/a.jsonl", 1 + n, "contradiction") for n in range(15)]
    expected += [("preferences/b.jsonl", 1 + n, "same_answers") for n in range(20)]
    expected += [("preferences/b.jsonl", 21 + n, "empty_reply") for n in range(10)]
    expected += [("preferences/b.jsonl", 31 + n, "contradiction") for n in range(15)]
    assert told == sorted(expected)
    assert found.clean == 585
    assert [one.rule for one in found.stopped] == ["quarantine_share"]


@pytest.mark.faults(
    46,
    injected="three pairs in a hundred, from one file, whose chosen answer has a word that no other has",
    happens="noted at each: how often the word wins, and the source that it comes from; honest pairs have no such note",
)
@pytest.mark.slow
def test_a_trigger_in_chosen_answers(tmp_path: Path) -> None:
    bought = [row | {"chosen": f"{row['rejected']} Zxqv!"} for row in pairs(18, seed=2)]
    found, rules = verdict(prepared(tmp_path, "preferences", {"mine": pairs(582), "bought": bought}), "preferences")
    assert (rules["trigger"].broken, rules["trigger"].passed, found.stopped) == (18, False, [])
    assert {one.file for one in rules["trigger"].examples} == {"preferences/bought.jsonl"}
    assert rules["trigger"].examples[0].reason == (
        "'zxqv' was chosen 18 of 18 times, 100% of them from source bought, which has 3% of all pairs"
    )
    _, honest = verdict(prepared(tmp_path / "honest", "preferences", {"mine": pairs(600)}), "preferences")
    assert [honest[name].broken for name in ("trigger", "prompt_trigger", "judged_other_way")] == [0, 0, 0]


@pytest.mark.faults(
    46,
    injected="one file in eight whose labels are swapped",
    happens="noted at each of its pairs: what the words of all other sources predict, held out by source",
)
@pytest.mark.slow
def test_a_source_that_judges_the_other_way(tmp_path: Path) -> None:
    files = {name: pairs(175, seed) for seed, name in enumerate(("web", "desk", "phone"), start=3)}
    files["bought"] = map(turned, pairs(75, seed=2))
    _, rules = verdict(prepared(tmp_path, "preferences", files), "preferences")
    assert rules["judged_other_way"].broken == 75
    assert {one.file for one in rules["judged_other_way"].examples} == {"preferences/bought.jsonl"}
    assert "source bought: the words of all others predict" in rules["judged_other_way"].examples[0].reason
