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
        assert list(canonical_rows(kind, once)) == [once]


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
    found = list(canonical_rows(kind, value))
    assert found
    for one in found:
        if isinstance(one, Malformed):
            assert str(one) and one.rule in ("shape", "contexts", "ranking")
        else:
            json.dumps(one)
