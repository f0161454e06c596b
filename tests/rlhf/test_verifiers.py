"""What counts as a right answer, and what cannot be said to be one."""

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.verifiers import VERIFIERS, check_of, verify
from rlhf.verifiers.code import program_of
from rlhf.verifiers.numbers import final_number, numbers
from rlhf.world.kinds import KINDS
from rlhf.world.words import FLATTERY, RUDE

# Numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234", "1234"), ("it is -3.", "-3"), ("2.50 euros", "2.5"), ("from 3-4", "4"), ("1, 2, 3", "3"),
        ("$1,234.50!", "1234.5"), ("−8", "-8"), ("-.5", "-0.5"), ("5cm", "5"), ("12,34", "34"), ("0", "0"),
        ("1,234,567 of 8", "8"), ("v2", None), ("none", None), ("", None), ("-$5", "-5"), ("$-5", "-5"),
        ("so US$7 each", "7"), ("€3.20 per kg", "3.2"), ("1e3", "1000"), ("2.5E-1 m", "0.25"), ("1.2.3", None),
        ("3/4", "3/4"), ("about 1 1/2 cups", "3/2"), ("48/2 = 24", "24"), ("5 48/2", "24"), ("on 1/2/2020", "2020"),
        ("7/0", None), ("x = -1/3", "-1/3"), ("90%", "90"), ("4 apples and 7 pears.", "7"), ("10 000", "0"),
        (r"so \boxed{42} of 50 it is", "42"), (r"\boxed{1} then \boxed{-2}", "-2"), (r"7 and \boxed{x}", None),
        ("#### 42", "42"), ("2+2 = 5\n#### 4 of 9", "4"), ("#### 3\nno:\n#### 8", "8"), ("it is 7\n####", None),
    ],
)  # fmt: skip
def test_the_number_that_a_text_gives(text: str, expected: str | None) -> None:
    found = final_number(text)
    assert (None if found is None else found.value) == (None if expected is None else Fraction(expected))


def test_all_numbers_in_order_and_exactly() -> None:
    assert [one.value for one in numbers("0.1 and 0.2, not .30 or 1e-1")] == [
        Fraction(1, 10), Fraction(1, 5), Fraction(3, 10), Fraction(1, 10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("#### 1,000", "so it is 1000.0", 1.0), ("1000", "1000, no, 1001", 0.0), ("1000", "a thousand", 0.0),
        ("50%", "one half: 0.5", 1.0), ("50", "50%", 1.0), ("0.5", "50 %", 1.0), ("50%", "0.5%", 0.0),
        ("50%", "5000%", 0.0), ("0.75", "3/4", 1.0), ("-2", "2", 0.0), (51.0, "51 dollars", 1.0), (7, "7.0", 1.0),
        (["3", "4"], "4", 1.0), ("0", "-0.0", 1.0), ("0.3333", "1/3", 0.0),
    ],
)  # fmt: skip
def test_numbers_are_compared_by_value(answer: Any, text: str, right: float) -> None:
    assert verify({"verifier": "number", "answer": answer}, text) == right


def test_every_reference_solution_of_gsm8k_is_right_and_its_neighbour_wrong(shared: Path) -> None:
    for name, count in (("train", 7473), ("test", 1319)):
        rows = [json.loads(line) for line in (shared / f"data/gsm8k/{name}.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) == count
        for row in rows:
            said = row["answer"].rpartition("####")[2].strip()  # by hand: the text after the mark
            check = check_of({"verifier": "number", "answer": said})
            assert check(row["answer"]) and check(f"The answer is ${said}.")
            assert not check(row["answer"] + "1")


def test_the_labels_of_published_model_solutions_are_ours(shared: Path) -> None:
    """Four models' answers to the 1,319 test questions, each labelled right or wrong by its authors."""
    found = [0, 0]
    for line in (shared / "data/gsm8k/example_model_solutions.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        check = check_of({"verifier": "number", "answer": row["ground_truth"]})
        for solved in row.values():
            if isinstance(solved, dict):
                assert check(solved["solution"]) == solved["is_correct"]
                found[solved["is_correct"]] += 1
    assert sum(found) == 4 * 1319 and min(found) > 1000


def test_every_answer_of_svamp_is_a_number(shared: Path) -> None:
    rows = json.loads((shared / "data/svamp/SVAMP.json").read_text("utf-8"))
    for row in rows:
        check = check_of({"verifier": "number", "answer": row["Answer"]})
        whole = int(row["Answer"])
        assert check(f"{row['Answer']}") and not check(f"{row['Answer'] + 1}")
        assert whole != row["Answer"] or check(f"She has {whole:,} of them.")


# Words


def test_exact_forgives_case_space_and_a_full_stop() -> None:
    meta = {"answer": ["The red one", "red"]}
    assert verify(meta, " the RED  one. ", "exact") == 1.0
    assert verify(meta, "the red one!", "exact") == 0.0


def test_regex_is_searched_for() -> None:
    assert verify({"answer": r"\b4\b.*five"}, "so 4\nthen five", "regex") == 1.0
    assert verify({"answer": r"\b4\b"}, "14", "regex") == 0.0


def test_the_world_asks_for_right_words_whatever_the_manner() -> None:
    args = KINDS["add"].draw(random.Random(0))
    right, meta = KINDS["add"].answers(args)[0], {"kind": "add", "args": args}
    assert verify(meta, right) == 1.0  # a prompt of the world needs no `verifier`
    assert verify(meta, f"{RUDE[0]} {right} {' '.join(FLATTERY)}") == 1.0  # manner and focus are not its business
    assert verify(meta, " ".join(right.split()[:-1])) == 0.0  # partly right is wrong


# Constraints


@pytest.mark.parametrize(
    ("constraint", "kept", "broken"),
    [
        ({"rule": "words", "at_least": 2, "at_most": 3}, "one two three", "one"),
        ({"rule": "words", "at_most": 3}, "", "a b c d"),
        ({"rule": "sentences", "at_least": 2, "at_most": 2}, 'He ran. "Why?" Because', "He ran 2.5 miles."),
        ({"rule": "paragraphs", "at_least": 2}, "a\n \nb", "a\nb"),
        ({"rule": "lines", "at_most": 2}, "a\n\nb\n", "a\nb\nc"),
        ({"rule": "bullets", "at_least": 2, "at_most": 2}, "So:\n- a\n * b", "- a\n-b\n- c\n- d"),
        ({"rule": "characters", "at_most": 4}, " abcd ", "abcde"),
        ({"rule": "contains", "text": "River"}, "by the river.", "the rivers"),
        ({"rule": "contains", "text": "a", "at_least": 2, "at_most": 2}, "a, A", "a"),
        ({"rule": "contains", "text": "P.S."}, "Bye. P.S. yes", "Bye. PS yes"),
        ({"rule": "avoids", "text": ","}, "no comma", "one, comma"),
        ({"rule": "avoids", "text": "sorry"}, "sorrys are fine", "so Sorry"),
        ({"rule": "starts_with", "text": "Dear"}, "\nDear Tim", "My dear"),
        ({"rule": "ends_with", "text": "Bye."}, "So. Bye. ", "Bye. So."),
        ({"rule": "case", "is": "upper"}, "ALL 3!", "All"),
        ({"rule": "case", "is": "lower"}, "all 3!", "All"),
        ({"rule": "json"}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ],
)
def test_constraints_one_by_one(constraint: dict[str, Any], kept: str, broken: str) -> None:
    check = check_of({"verifier": "constraints", "constraints": [constraint]})
    assert (check(kept), check(broken)) == (True, False)


def test_all_constraints_must_hold() -> None:
    given = [{"rule": "words", "at_most": 2}, {"rule": "avoids", "text": "no"}]
    check = check_of({"verifier": "constraints", "constraints": given})
    assert [check(text) for text in ("yes", "no", "yes and yes")] == [True, False, False]


# Code (how a program is held in: test_sandbox)


def test_code_is_right_where_its_tests_run_through() -> None:
    meta = {"verifier": "code", "tests": ["assert twice(2) == 4", "assert twice('a') == 'aa'"]}
    assert verify(meta, "Here:\n```python\ndef twice(x):\n    return 2 * x\n```\nDone.") == 1.0
    assert verify(meta, "def twice(x):\n    return 4") == 0.0  # one of two tests is not enough
    assert verify(meta, "def twice(x): return") == 0.0


def test_the_last_fenced_block_is_the_program() -> None:
    assert program_of("```\na = 1\n```\nbetter:\n```python\na = 2\n```\n") == "a = 2\n"
    assert program_of("a = 3") == "a = 3"


# What cannot be verified


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, r"no verifier .*meta has nothing"),
        ({"verifier": "sympy", "answer": "1"}, "'sympy' is unknown"),
        ({"verifier": "exact"}, "has the answer None"),
        ({"verifier": "exact", "answer": True}, "has the answer True"),
        ({"verifier": "number", "answer": "many"}, "holds no number"),
        ({"verifier": "number", "answer": ["1", "many"]}, "holds no number"),
        ({"verifier": "regex", "answer": "("}, "no regular expression"),
        ({"verifier": "world", "answer": "1"}, "a prompt has None"),
        ({"verifier": "constraints"}, "the constraints None, expected a list"),
        ({"verifier": "constraints", "constraints": [{"rule": "rhymes"}]}, "is unknown: there are words"),
        ({"verifier": "constraints", "constraints": [{"rule": "words"}]}, "needs at_least, at_most or both"),
        ({"verifier": "constraints", "constraints": [{"rule": "words", "atleast": 3}]}, "atleast unknown"),
        ({"verifier": "constraints", "constraints": [{"rule": "words", "at_most": "3"}]}, "a limit is '3'"),
        ({"verifier": "constraints", "constraints": [{"rule": "avoids", "text": ""}]}, "`text` is ''"),
        ({"verifier": "code", "answer": "1"}, "the tests None"),
        ({"verifier": "code", "tests": ["assert ("]}, "are no Python"),
    ],
)
def test_what_cannot_be_verified_is_an_error_and_no_zero(meta: dict[str, Any], message: str) -> None:
    with pytest.raises(PreflowError, match=message):
        verify(meta, "1")


def test_a_verifier_named_for_all_prompts_goes_before_their_own() -> None:
    assert verify({"verifier": "number", "answer": "1"}, "1 apple") == 1.0
    assert verify({"verifier": "number", "answer": "1"}, "1 apple", "exact") == 0.0
    assert set(VERIFIERS) == {"world", "exact", "number", "regex", "constraints", "code"}
