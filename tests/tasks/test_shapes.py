import pytest

from tasks.shapes import Malformed, canonical

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
