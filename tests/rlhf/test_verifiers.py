"""What counts as a right answer, and what cannot be said to be one."""

import random
from decimal import Decimal

import pytest

from rlhf.errors import PreflowError
from rlhf.verifiers import last_number, verify
from rlhf.world.kinds import KINDS
from rlhf.world.words import FLATTERY, RUDE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234", "1234"), ("it is -3.", "-3"), ("2.50 euros", "2.5"), ("from 3-4", "4"), ("1, 2, 3", "3"),
        ("$1,234.50!", "1234.5"), ("−8", "-8"), ("#### 42", "42"), ("-.5", "-0.5"), ("5cm", "5"), ("12,34", "34"),
        ("1,234,567 of 8", "8"), ("v2", None), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_last_number(text: str, expected: str | None) -> None:
    assert last_number(text) == (None if expected is None else Decimal(expected))


def test_numbers_are_compared_by_value() -> None:
    meta = {"verifier": "number", "answer": "#### 1,000"}
    assert verify(meta, "so it is 1000.0") == 1.0
    assert verify(meta, "1000, no, 1001") == 0.0
    assert verify(meta, "a thousand") == 0.0
    with pytest.raises(PreflowError, match="holds no number"):
        verify({"verifier": "number", "answer": "many"}, "7")


def test_exact_forgives_case_space_and_a_full_stop() -> None:
    meta = {"answer": ["The red one", "red"]}
    assert verify(meta, " the RED  one. ", "exact") == 1.0
    assert verify(meta, "the red one!", "exact") == 0.0


def test_regex_is_searched_for() -> None:
    assert verify({"answer": r"\b4\b.*five"}, "so 4\nthen five", "regex") == 1.0
    assert verify({"answer": r"\b4\b"}, "14", "regex") == 0.0
    with pytest.raises(PreflowError, match="no regular expression"):
        verify({"answer": "("}, "(", "regex")


def test_the_world_asks_for_right_words_whatever_the_manner() -> None:
    args = KINDS["add"].draw(random.Random(0))
    right, meta = KINDS["add"].answers(args)[0], {"kind": "add", "args": args}
    assert verify(meta, right) == 1.0  # a prompt of the world needs no `verifier`
    assert verify(meta, f"{RUDE[0]} {right} {' '.join(FLATTERY)}") == 1.0  # manner and focus are not its business
    assert verify(meta, " ".join(right.split()[:-1])) == 0.0  # partly right is wrong


def test_what_cannot_be_verified_is_an_error_and_no_zero() -> None:
    with pytest.raises(PreflowError, match=r"no verifier .*meta has nothing"):
        verify({}, "text")
    with pytest.raises(PreflowError, match="`sympy` is unknown"):
        verify({"verifier": "sympy", "answer": "1"}, "1")
    with pytest.raises(PreflowError, match="has the answer None"):
        verify({"verifier": "exact"}, "text")
    with pytest.raises(PreflowError, match="a prompt has None"):
        verify({"answer": "1"}, "1", "world")
