"""What counts as a right answer, and what cannot be said to be one."""

import json
import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import PreflowError
from rlhf.verifiers import VERIFIERS, check_of, pattern_child, verify
from rlhf.verifiers.code import program_of
from rlhf.verifiers.numbers import final_number, numbers
from rlhf.verifiers.patterns import found
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
        ("4", "so 4, or " + "1" * 5000, 0.0), ("4", "1" * 5000 + ", no: 4", 1.0), ("4", "1/" + "3" * 5000, 0.0),
        ("4", "4." + "0" * 5000 + "1", 0.0), ("1", "1e999999999", 0.0), ("1", "1e-9999", 0.0), ("4", "٤", 0.0),
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


def test_a_regular_expression_that_takes_too_long_says_nothing() -> None:
    """In this process it takes half a minute, in which no signal would be heard, and then says no."""
    slow, text = {"answer": "(a+)+$"}, "a" * 27 + "b"
    assert math.isnan(verify(slow, text, "regex"))
    assert verify(slow, "aa", "regex") == 1.0
    assert verify({"answer": ["b$", "(a+)+$"]}, text, "regex") == 1.0  # found before that


def test_who_asks_this_process_and_its_group_to_stop_spoils_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that it is in is ended and saved, with the verdicts that it would have had."""
    child = tmp_path / "child.py"
    child.write_text("import os; print(int(os.getpgid(0) == os.getpid()), end='')")
    monkeypatch.setattr(pattern_child, "__file__", str(child))
    assert found(["a"], ["a"]) == [True]


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
        ({"rule": "json"}, "```\n[1]```", "```yaml\n[1]\n```"),
        ({"rule": "json"}, "1" * 5000, "[" * 100_000),
        ({"rule": "words", "at_least": None, "at_most": 2, "text": None}, "a b", "a b c"),
        ({"rule": "sentences", "at_least": 1}, "." * 200_000, "." * 200_000 + "a"),
        ({"rule": "bullets", "at_least": 1}, "\n" * 200_000 + "- a", "\n" * 200_000 + "a"),
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
        ({"verifier": ["exact"], "answer": "1"}, r"\['exact'\] is unknown"),
        ({"verifier": "exact", "answer": 10**5000}, "thousands of digits"),
        ({"verifier": "number", "answer": "many"}, "holds no number"),
        ({"verifier": "number", "answer": "1" * 5000}, "more than 500 digits"),
        ({"verifier": "number", "answer": "1e999999999"}, "exponent of more than 3"),
        ({"verifier": "number", "answer": ["1", "many"]}, "holds no number"),
        ({"verifier": "regex", "answer": "("}, "no regular expression"),
        ({"verifier": "regex", "answer": "(?L)a"}, "no regular expression"),
        ({"verifier": "regex", "answer": "(" * 10_000}, "no regular expression"),
        ({"verifier": "world", "answer": "1"}, "a prompt has None"),
        ({"kind": ["add"], "args": {}}, r"a prompt has \['add'\]"),
        ({"kind": "add", "args": None}, "`add` has the args None"),
        ({"verifier": "constraints"}, "the constraints None, expected a list"),
        ({"verifier": "constraints", "constraints": [{"rule": "rhymes"}]}, "is unknown: there are words"),
        ({"verifier": "constraints", "constraints": [{"rule": ["words"]}]}, "is unknown: there are words"),
        ({"verifier": "constraints", "constraints": [{"rule": "words"}]}, "needs at_least, at_most or both"),
        ({"verifier": "constraints", "constraints": [{"rule": "words", "atleast": 3}]}, "atleast unknown"),
        ({"verifier": "constraints", "constraints": [{"rule": "words", "at_most": "3"}]}, "a limit is '3'"),
        ({"verifier": "constraints", "constraints": [{"rule": "avoids", "text": ""}]}, "`text` is ''"),
        ({"verifier": "code", "answer": "1"}, "the tests None"),
        ({"verifier": "code", "tests": ["assert ("]}, "are no Python"),
        ({"verifier": "code", "tests": "assert " + "-" * 100_000 + "1"}, "are no Python"),
    ],
)
def test_what_cannot_be_verified_is_an_error_and_no_zero(meta: dict[str, Any], message: str) -> None:
    with pytest.raises(PreflowError, match=message):
        verify(meta, "1")


def test_a_verifier_named_for_all_prompts_goes_before_their_own() -> None:
    assert verify({"verifier": "number", "answer": "1"}, "1 apple") == 1.0
    assert verify({"verifier": "number", "answer": "1"}, "1 apple", "exact") == 0.0
    assert set(VERIFIERS) == {"world", "exact", "number", "regex", "constraints", "code"}


# Any text, any spec

PIECES = st.sampled_from(
    [".", "\n", "\n\n", " ", "```\n", "```json\n", "- ", "1", "1,", "1/", "1 1/2 ", "0.", "e9", "%", "-$", "#### ",
     "\\boxed{", "}", "[", '{"a":', "a", "a b ", "٣", "\u0301", "\0", "\ud800", "…!?", "def f(): return 1\n"]
)  # fmt: skip
RUNS = st.builds(lambda piece, times: piece * times, PIECES, st.sampled_from([1, 2, 700, 6000]))
TEXTS = st.lists(st.one_of(RUNS, st.text(st.characters())), max_size=4).map("".join)
RULES = [
    *({"rule": rule, "at_least": 1} for rule in ("words", "sentences", "paragraphs", "lines", "bullets", "characters")),
    *({"rule": rule, "text": text} for rule in ("contains", "avoids", "starts_with", "ends_with") for text in "a.\n"),
    {"rule": "json"}, {"rule": "case", "is": "upper"},
]  # fmt: skip
SPECS: list[dict[str, Any]] = [
    {"verifier": "number", "answer": ["4", "50%", "1/3"]},
    {"verifier": "exact", "answer": "a b"},
    *({"kind": kind, "args": KINDS[kind].draw(random.Random(0))} for kind in KINDS),
    *({"verifier": "constraints", "constraints": [rule]} for rule in RULES),
]


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_any_text_is_right_or_wrong(text: str) -> None:
    assert {verify(spec, text) for spec in SPECS} <= {0.0, 1.0}


@settings(max_examples=8, deadline=None)
@given(TEXTS)
def test_any_text_is_right_or_wrong_to_those_that_ask_another_process(text: str) -> None:
    assert verify({"verifier": "regex", "answer": ["a+b", "^\\s*$"]}, text) in (0.0, 1.0)
    assert not verify({"verifier": "code", "tests": "assert False"}, text)


WORDS = ("add", "a", "(", "(a|b)*", "1" * 5000, "1e99999", "assert f() == 1", "words", "json", "\ud800", "\0")
HUGE = st.just("10^5000").map(lambda _: 10**5000)  # has no text that Python would write
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), HUGE, st.floats(), st.sampled_from(WORDS))
NAMES = st.sampled_from(["rule", "text", "is", "at_least", "at_most", "a", "b"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {"verifier": st.sampled_from([*VERIFIERS, "sympy"]) | VALUES},
        optional={
            "answer": VALUES, "tests": VALUES, "constraints": VALUES | st.lists(VALUES, max_size=2),
            "args": VALUES, "kind": st.sampled_from(list(KINDS)) | VALUES,
        },
    )
)  # fmt: skip
def test_any_spec_makes_a_check_or_an_error_that_can_be_read(spec: dict[str, Any]) -> None:
    message = ""
    try:
        check = check_of(spec)
    except PreflowError as error:
        message = str(error)
    else:
        if spec["verifier"] not in ("regex", "code"):  # those ask another process: above
            assert check("a") in (True, False)
    assert len(message) < 1000
