"""Two sides of a pair: the conversation they answer is one, and the prompt beside them is in it."""

import pytest

from tasks.shapes import Malformed, canonical, canonical_rows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
MORE = [USER, ANSWER, {"role": "user", "content": "bye"}]
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
SYSTEM = {"role": "system", "content": "be kind"}


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


def test_sides_that_answer_different_conversations_have_a_rule_of_their_own():
    (found,) = canonical_rows("preferences", {"chosen": HH + " a", "rejected": HH.replace("bye", "by") + " b"})
    assert (found.rule, str(found)) == ("contexts", "the conversations before chosen and rejected differ")


def test_an_answer_that_looks_like_a_dialogue_keeps_its_prompt():
    play = "Human: Hello?\n\nAssistant: Yes?"
    (pair,) = canonical_rows("preferences", {"prompt": "Write a dialogue.", "chosen": play, "rejected": "No."})
    assert pair["messages"] == [{"role": "user", "content": "Write a dialogue."}]
    assert (pair["chosen"], pair["rejected"]) == (play, "No.")
    asked = canonical("demonstrations", {"prompt": "Write a dialogue.", "chosen": play, "rejected": "No."})
    assert asked["messages"] == [*pair["messages"], {"role": "assistant", "content": play}]
    (whole,) = canonical_rows("preferences", {"prompt": HH, "chosen": HH + " see you", "rejected": HH + " go"})
    assert (whole["messages"], whole["chosen"]) == (MORE, "see you")


def test_turns_behind_a_prompt_do_not_push_it_out():
    later = [ANSWER, {"role": "user", "content": "bye"}]
    sides = {side: [*later, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert canonical("preferences", {"prompt": "hi", **sides})["messages"] == MORE


def lists(*before):
    """A pair of message lists with these turns before its answers."""
    return {name: [*before, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}


@pytest.mark.parametrize(
    "beside",
    [
        {"prompt": "something else"},
        {"prompt": [SYSTEM, USER]},
        {"prompt": [{"role": "user", "content": "ho"}, ANSWER, MORE[2]]},
        {"prompt": "hi", "messages": [{"role": "user", "content": "ho"}, ANSWER]},
        {"instruction": "hi", "input": "there"},
        {"prompt": "\n\nHuman: ho\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"},
    ],
)
def test_lists_that_hold_another_conversation_than_the_prompt_are_refused(beside):
    (found,) = canonical_rows("preferences", beside | lists(*MORE))
    assert isinstance(found, Malformed) and found.rule == "contexts"
    assert str(found) == "chosen holds another conversation than the prompt beside it"


@pytest.mark.parametrize(
    ("beside", "before"),
    [
        ({"prompt": "hi "}, [USER]),
        ({"prompt": "bye"}, MORE),  # the last question of some data sets, the first of others
        ({"prompt": None, "question": None}, [USER]),  # as tables fill what a row has not
        ({"prompt": MORE}, MORE),
        ({"prompt": HH}, MORE),
        ({"prompt": [USER]}, [SYSTEM, USER]),
        ({"prompt": "hi", "system": "be kind"}, [SYSTEM, USER]),
        ({"prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
    ],
)
def test_lists_with_the_prompt_in_them_are_the_conversation(beside, before):
    found = canonical("preferences", beside | lists(*before))["messages"]
    assert found == ([SYSTEM, USER] if "system" in beside else before)
