import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.shapes import KINDS, Malformed, canonical, canonical_rows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
MORE = [USER, ANSWER, {"role": "user", "content": "bye"}]
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [USER, ANSWER]},
        {"prompt": "hi", "completion": "hello"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"instruction": "hi", "input": "", "output": "hello", "chosen": "not this one"},
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go"},
    ],
)
def test_demonstrations_in_every_shape_are_the_same_row(value):
    assert canonical("demonstrations", value) == {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    "value",
    [
        {"messages": MORE, "chosen": "see you", "rejected": "go"},
        {"prompt": MORE, "chosen": "see you", "rejected": "go"},
        {"prompt": MORE, "chosen": [{"role": "assistant", "content": "see you"}], "rejected": "go"},
        {
            "chosen": [*MORE, {"role": "assistant", "content": "see you"}],
            "rejected": [*MORE, {"role": "assistant", "content": "go"}],
        },
        {"chosen": HH + " see you", "rejected": HH + " go"},
        {"prompt": HH, "chosen": "see you", "rejected": "go"},
    ],
)
def test_preferences_in_every_shape_are_the_same_row(value):
    found = canonical("preferences", value)
    assert found == {
        "messages": MORE,
        "chosen": "see you",
        "rejected": "go",
        "annotator": "unknown",
        "origin": "offline",
        "margin": None,
    }


def test_an_instruction_and_its_input_are_one_question():
    row = {"instruction": "Edit the sentence. ", "input": "He go.", "output": "x"}
    assert canonical("prompts", row)["messages"] == [{"role": "user", "content": "Edit the sentence.\n\nHe go."}]


@pytest.mark.parametrize(
    "value", [{"messages": [*MORE, ANSWER]}, {"prompt": MORE}, {"chosen": HH + " see you", "rejected": HH + " go"}]
)
def test_a_question_is_a_row_without_its_answer(value):
    assert canonical("prompts", value) == {"messages": MORE, "meta": {}, "pool": "any"}
    assert canonical("eval", value) == {"messages": MORE, "meta": {}}


def test_what_canonical_rows_carry_is_kept():
    assert canonical("prompts", {"messages": [USER], "meta": {"kind": "sum"}, "pool": "rl"})["meta"] == {"kind": "sum"}
    assert canonical("corpus", {"messages": [USER, ANSWER], "run_on": True})["run_on"] is True
    pair = {"messages": [USER], "chosen": "a", "rejected": "b", "annotator": "ann", "margin": 2, "origin": "on_policy"}
    assert canonical("preferences", pair) == pair


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("demonstrations", {}, "no answer"),
        ("demonstrations", {"output": "x"}, "no prompt"),
        ("demonstrations", {"prompt": "x", "completion": None}, "completion: expected text, found null"),
        ("demonstrations", {"messages": []}, "an empty list"),
        ("demonstrations", {"messages": "hi"}, "expected a list of messages, found str"),
        ("demonstrations", {"messages": [USER, "hello"]}, "message 2"),
        ("demonstrations", {"messages": [USER, {"role": "assistant"}]}, "message 2 must have role and content"),
        ("demonstrations", {"messages": [USER, {"role": "assistant", "content": 3}]}, "must be text, found int"),
        ("demonstrations", {"messages": [USER, {**ANSWER, "tool_calls": []}]}, "tool_calls"),
        ("demonstrations", {"chosen": "Human: hi"}, "found 1 turn"),
        ("preferences", {"prompt": "hi", "chosen": "a"}, "rejected is missing"),
        ("preferences", {"messages": [USER], "chosen": "a", "rejected": ["b"]}, "rejected: expected text"),
        ("preferences", {"prompt": "hi", "chosen": "a", "rejected": "b", "margin": "big"}, "margin"),
        ("preferences", {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "ho"}, ANSWER]}, "differ"),
        ("preferences", {"chosen": [USER], "rejected": [USER]}, "speak last"),
        ("prompts", {"prompt": 3}, "prompt: expected text, found int"),
        ("eval", {"prompt": "x", "meta": []}, "meta: expected dict"),
        ("corpus", {"content": "x"}, "text is missing"),
    ],
)
def test_what_is_missing_or_of_the_wrong_type_is_said(kind, value, reason):
    with pytest.raises(Malformed, match=reason):
        canonical(kind, value)


def test_canonical_rows_are_read_as_themselves():
    """What was prepared once may be dropped into the inbox of another run."""
    rows = {
        "demonstrations": {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"},
        "preferences": {"prompt": "hi", "completions": ["a", "b"], "scores": [1, 2.5], "system": "s", "turn": 2},
        "ratings": {"prompt": "hi", "completion": "a", "label": 1, "annotator": 7},
        "prompts": {"prompt": "hi", "answer": 51.0, "verifier": "number"},
        "eval": {"question": "hi"},
        "corpus": {"text": "hi", "title": "not kept"},
    }
    for kind, value in rows.items():
        (once,) = canonical_rows(kind, value)
        assert canonical_rows(kind, once) == [once]


def test_a_system_text_is_the_first_message_of_every_shape():
    system = {"role": "system", "content": "be kind"}
    asked = {"prompt": "hi", "system": "be kind"}
    assert canonical("prompts", asked)["messages"] == [system, USER]
    assert canonical("demonstrations", asked | {"completion": "hello"})["messages"] == [system, USER, ANSWER]
    assert canonical("ratings", asked | {"completion": "hello", "label": True})["messages"] == [system, USER]
    sides = {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "go"}]}
    assert canonical("preferences", sides | {"system": "be kind"})["messages"] == [system, USER]
    own = {"messages": [{**system, "content": "own"}, USER], "system": "be kind"}
    assert canonical("prompts", own)["messages"] == own["messages"]
    assert canonical("prompts", {"prompt": "hi", "system": " "})["messages"] == [USER]


def test_pairs_with_message_lists_and_scores_as_ultrafeedback_has_them():
    row = {
        "prompt": "hi", "prompt_id": "x", "messages": [USER, ANSWER],
        "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "go"}],
        "score_chosen": 8.5, "score_rejected": 6.0, "confidence": 7, "turn": 1, "shown_first": "rejected",
    }  # fmt: skip
    found = canonical("preferences", row)
    assert (found["messages"], found["chosen"], found["rejected"]) == ([USER], "hello", "go")
    assert (found["scores"], found["margin"], found["confidence"], found["turn"]) == ([8.5, 6.0], 2.5, 7, 1)
    assert found["meta"] == {"shown_first": "rejected"}
    assert canonical("preferences", row | {"margin": 1})["margin"] == 1
    assert canonical("demonstrations", row) == {"messages": [USER, ANSWER]}
    assert canonical("prompts", row)["messages"] == [USER]


def test_a_set_of_ranked_answers_gives_all_pairs_that_have_a_better_side():
    """InstructGPT's C(4, 2) = 6 pairs, by hand; equal ranks make none."""
    row = {"prompt": "hi", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 3, 4]}
    found = canonical_rows("preferences", row)
    sides = [(pair["chosen"], pair["rejected"]) for pair in found]
    assert sides == [("b", "a"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert len({pair["set"] for pair in found}) == 1 and all(pair["margin"] is None for pair in found)
    tied = canonical_rows("preferences", row | {"ranks": [1, 1, 2, 2]})
    assert [(pair["chosen"], pair["rejected"]) for pair in tied] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert tied[0]["set"] != found[0]["set"]


def test_scores_order_a_set_the_other_way_round_and_give_margins():
    row = {"messages": [USER], "completions": ["a", "b", "c"], "scores": [0.5, 2.0, 0.5]}
    found = canonical_rows("preferences", row)
    assert [(pair["chosen"], pair["rejected"], pair["margin"]) for pair in found] == [("b", "a", 1.5), ("b", "c", 1.5)]
    assert found[0]["scores"] == [2.0, 0.5]
    (best,) = canonical_rows("demonstrations", row)
    assert best["messages"] == [USER, {"role": "assistant", "content": "b"}]
    assert canonical_rows("prompts", row) == [{"messages": [USER], "meta": {}, "pool": "any"}]


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
    found = canonical_rows("preferences", {"prompt": "hi", "completions": ["a", "b", "c"]} | changes)
    *pairs, problem = found
    assert len(pairs) == num_pairs and not any(isinstance(pair, Malformed) for pair in pairs)
    assert isinstance(problem, Malformed) and reason in str(problem) and problem.rule == rule


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


def test_how_an_answer_is_checked_goes_with_the_question():
    row = {"prompt": "hi", "verifier": "code", "tests": ["assert f() == 1"], "meta": {"level": 2}}
    assert canonical("prompts", row)["meta"] == {"level": 2, "verifier": "code", "tests": ["assert f() == 1"]}
    for answer, kept in ((51.0, "51"), (2.5, "2.5"), (-3, "-3"), ("a", "a"), ([1, "b"], ["1", "b"])):
        assert canonical("eval", {"question": "hi", "answer": answer})["meta"] == {"answer": kept}


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("ratings", {"prompt": "hi", "completion": "a"}, "label is missing"),
        ("ratings", {"prompt": "hi", "completion": "a", "label": 3}, "expected true or false, found 3"),
        ("ratings", {"prompt": "hi", "completion": "a", "label": [1]}, "expected true or false, found list"),
        ("ratings", {"messages": [USER], "label": 1}, "speak last"),
        ("ratings", {"prompt": "hi", "label": 1}, "no answer to rate"),
        ("prompts", {"prompt": "hi", "answer": {"a": 1}}, "answer: expected a text"),
        ("prompts", {"query": "hi", "k": 1}, "no prompt: .* found k, query"),
        ("preferences", {"prompt": "hi", "chosen": "a", "rejected": "b", "scores": [1]}, "expected two numbers"),
        ("preferences", {"prompt": "hi", "chosen": "a", "rejected": "b", "margin": float("nan")}, "margin"),
    ],
)
def test_what_else_is_missing_or_of_the_wrong_type_is_said(kind, value, reason):
    (found,) = canonical_rows(kind, value)
    with pytest.raises(Malformed, match=reason):
        raise found


def test_sides_that_answer_different_conversations_have_a_rule_of_their_own():
    (found,) = canonical_rows("preferences", {"chosen": HH + " a", "rejected": HH.replace("bye", "by") + " b"})
    assert (found.rule, str(found)) == ("contexts", "the conversations before chosen and rejected differ")


NAMES = [
    "messages", "prompt", "instruction", "input", "question", "completion", "output", "chosen", "rejected", "label",
    "completions", "ranks", "scores", "system", "meta", "text", "answer", "verifier", "instances", "Body", "Question",
    "Answer", "info", "summaries", "choice", "query", "sample0", "best", "ground_truth", "margin", "annotator",
    "replies", "role", "content", "rank", "deleted",
]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "prompter", HH + " a", "\n#### 7", "Human:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), value=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=6))
def test_no_line_makes_the_reader_fail_or_vanishes(kind, value):
    found = canonical_rows(kind, value)
    assert found
    for one in found:
        if isinstance(one, Malformed):
            assert str(one) and one.rule in ("shape", "contexts", "ranking")
        else:
            json.dumps(one)
