"""Several answers to one question, ranked or scored, and answers rated one by one."""

import pytest

from tasks.shapes import Malformed, canonical, canonical_rows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def test_a_set_of_ranked_answers_gives_all_pairs_that_have_a_better_side():
    """InstructGPT's C(4, 2) = 6 pairs, by hand; equal ranks make none."""
    row = {"prompt": "hi", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 3, 4]}
    found = list(canonical_rows("preferences", row))
    sides = [(pair["chosen"], pair["rejected"]) for pair in found]
    assert sides == [("b", "a"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert len({pair["set"] for pair in found}) == 1 and all(pair["margin"] is None for pair in found)
    tied = list(canonical_rows("preferences", row | {"ranks": [1, 1, 2, 2]}))
    assert [(pair["chosen"], pair["rejected"]) for pair in tied] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert tied[0]["set"] != found[0]["set"]


def test_scores_order_a_set_the_other_way_round_and_give_margins():
    row = {"messages": [USER], "completions": ["a", "b", "c"], "scores": [0.5, 2.0, 0.5]}
    found = list(canonical_rows("preferences", row))
    assert [(pair["chosen"], pair["rejected"], pair["margin"]) for pair in found] == [("b", "a", 1.5), ("b", "c", 1.5)]
    assert found[0]["scores"] == [2.0, 0.5]
    (best,) = canonical_rows("demonstrations", row)
    assert best["messages"] == [USER, {"role": "assistant", "content": "b"}]
    assert list(canonical_rows("prompts", row)) == [{"messages": [USER], "meta": {}, "pool": "any"}]


@pytest.mark.parametrize(
    ("changes", "num_pairs", "reason", "rule"),
    [
        ({"ranks": [1, None, 2]}, 1, "2 of 3 completions are ranked", "ranking"),
        ({"ranks": [None, None, None]}, 0, "0 of 3 completions are ranked", "ranking"),
        ({}, 0, "0 of 3 completions are ranked", "ranking"),
        ({"ranks": [4, 4, 4]}, 0, "all 3 completions share a rank", "ranking"),
        ({"ranks": [1, 2]}, 0, "ranks: expected 3, one a completion, found 2", "shape"),
        ({"ranks": [1, 2, "3"]}, 0, "ranks: expected a list of numbers", "shape"),
        ({"ranks": [1, 2, True]}, 0, "ranks: expected a list of numbers", "shape"),
        ({"scores": [1, 2, 10**400]}, 0, "scores: expected a list of numbers", "shape"),
        ({"completions": ["a", 1, "c"], "ranks": [1, 2, 3]}, 0, "completions: expected a list of texts", "shape"),
        ({"completions": ["a"] * 33, "ranks": [1] * 33}, 0, "expected 1 to 32, found 33", "shape"),
    ],
)
def test_a_set_that_is_not_ranked_is_said_to_be(changes, num_pairs, reason, rule):
    found = list(canonical_rows("preferences", {"prompt": "hi", "completions": ["a", "b", "c"]} | changes))
    *pairs, problem = found
    assert len(pairs) == num_pairs and not any(isinstance(pair, Malformed) for pair in pairs)
    assert isinstance(problem, Malformed) and reason in str(problem) and problem.rule == rule


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("preferences", {"prompt": "hi", "completions": ["a"], "ranks": [1]}, "nothing in it has two ranked answers"),
        (
            "demonstrations",
            {"prompt": {"role": "prompter", "text": "hi", "replies": []}},
            "nothing in it has an answer",
        ),
        ("demonstrations", {"instruction": "hi", "instances": []}, "nothing in it has an answer"),
        ("ratings", {"question": "hi", "ground_truth": "a"}, "nothing in it has an answer"),
        ("prompts", {"instruction": "hi", "instances": []}, "nothing in it is asked"),
        ("eval", {"prompt": {"role": "prompter", "text": "hi", "replies": [], "deleted": True}}, "it is asked"),
    ],
)
def test_a_line_that_gives_no_row_says_what_its_kind_misses(kind, value, reason):
    (found,) = canonical_rows(kind, value)
    assert isinstance(found, Malformed) and reason in str(found)
    assert found.rule == ("ranking" if kind == "preferences" else "shape")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "hi", "completion": "hello"},
        {"messages": [USER, ANSWER]},
        {"messages": [USER], "completion": "hello"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"instruction": "hi", "response": "hello"},
    ],
)
@pytest.mark.parametrize(
    ("label", "is_good"), [(True, True), (0, False), (1.0, True), ("False", False), (" yes", True)]
)
def test_ratings_in_every_shape_are_the_same_row(value, label, is_good):
    found = canonical("ratings", value | {"label": label})
    assert found == {"messages": [USER], "completion": "hello", "label": is_good}
    assert found["label"] is is_good
