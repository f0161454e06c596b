"""What the gate says of real data, row by row. The files are not part of this repository: see `shared` in conftest."""

import gzip
import json

import pytest

from flows.data.check import Checked, checked
from tasks.validation.personal import personal_in


@pytest.fixture(scope="module")
def data(shared):
    if not (shared / "data").is_dir():
        pytest.skip("no real data beside the models")
    return shared / "data"


def broken(found: Checked, kind: str) -> dict[str, list[int]]:
    """Lines that each rule sets aside, in order."""
    verdict = found.verdicts[kind]
    rules: dict[str, list[int]] = {}
    for finding in verdict.quarantined:
        rules.setdefault(finding.rule, []).append(finding.line)
    return rules


@pytest.fixture(scope="module")
def polite(data):
    return checked([str(data / "rasbt_instruction" / "instruction-data-with-preference.json")], columns={})


@pytest.fixture(scope="module")
def harmless(data):
    return checked([str(data / "hh_harmless_test" / "test.jsonl.gz")], columns={})


def test_the_six_equal_pairs_of_the_polite_set(data, polite):
    """They are elements 122, 226, 400, 566, 628 and 676 of the array, which has seven lines an element."""
    assert broken(polite, "preferences") == {"same_answers": [7 * n + 2 for n in (122, 226, 400, 566, 628, 676)]}
    rows = json.loads((data / "rasbt_instruction" / "instruction-data-with-preference.json").read_text())
    equal = [n for n, row in enumerate(rows) if row["chosen"].split() == row["rejected"].split()]
    assert equal == [122, 226, 400, 566, 628, 676]
    assert (polite.verdicts["preferences"].total, polite.verdicts["preferences"].clean) == (1100, 1094)
    assert polite.passed


def test_empty_replies_role_clashes_and_contexts_of_hh_harmless(harmless):
    found = broken(harmless, "preferences")
    assert found["empty_reply"] == [87, 517, 926, 1104]
    assert found["contexts"] == [1255, 1689, 1951, 1953, 2037]
    assert found["role_order"] == [668, 764, 1320, 1850]  # the five above clash too, before they can be compared
    assert set(found) == {"empty_reply", "contexts", "role_order", "personal"}
    assert harmless.verdicts["preferences"].total == 2312 and harmless.passed


def test_personal_data_of_hh_harmless_is_found_and_never_shown(data, harmless):
    lines = broken(harmless, "preferences")["personal"]
    assert lines == [353, 461, 477, 576, 630, 654, 1000, 1108, 1143, 1260, 1799, 1812, 2168, 2179, 2189, 2288]
    with gzip.open(data / "hh_harmless_test" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        text = list(file)[461 - 1]
    phone = "844-555-5555"
    assert phone in text
    quarantined = harmless.verdicts["preferences"].quarantined
    assert phone not in repr(quarantined)
    assert not any(personal_in(finding.excerpt) for finding in quarantined)


def test_sets_of_the_open_assistant_that_are_not_ranked_or_partly_ranked(data):
    path = str(data / "oasst_100_trees" / "en_100_tree.jsonl")
    found = checked([path], kind="preferences", columns={})
    reasons = [(one.line, one.reason) for one in found.verdicts["preferences"].quarantined if one.rule == "ranking"]
    assert reasons == [
        (59, "3 of 4 completions are ranked"),
        (70, "0 of 3 completions are ranked"),
        (70, "0 of 2 completions are ranked"),
    ]


def test_the_svamp_row_whose_equation_does_not_give_its_answer(data):
    found = checked([str(data / "svamp" / "SVAMP.json")], kind="prompts", columns={})
    (finding,) = found.verdicts["prompts"].quarantined
    rows = json.loads((data / "svamp" / "SVAMP.json").read_text())
    assert rows[679]["ID"] == "chal-680" and rows[679]["Answer"] == 1.0
    assert (finding.rule, finding.line) == ("wrong_answer", 8 * 679 + 2)  # eight lines an element
    assert finding.reason == "( ( 4.0 - 2.0 ) + 3.0 ) is 5, the answer says 1"
    assert "chal" not in finding.excerpt and "Rachel's tree had 4 apples" in finding.excerpt


def test_a_split_by_row_leaks_and_ours_does_not(data, harmless):
    """265 of the 2 312 harmless pairs share their first message with another pair."""
    found = harmless.verdicts["preferences"].figures["split_leakage"]
    assert found["by_group"] == 0.0
    assert 0.08 < found["by_row"] < 0.12
    with gzip.open(data / "hh_harmless_test" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        firsts = [json.loads(line)["chosen"].split("\n\nAssistant:")[0].casefold().split() for line in file]
    counts = [firsts.count(first) for first in firsts]
    expected = sum(1 - found["held_out"] ** (count - 1) for count in counts) / len(counts)
    assert found["by_row"] == pytest.approx(expected, abs=0.005)  # rows that cannot be read are not counted there
