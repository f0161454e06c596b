"""A sampler server that talks nonsense: nothing of it becomes a sample, and the error says what was seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import Policy
from tests.rlhf.conftest import WORDS
from tests.rlhf.stub_sampler import Answer, Stub, draw, server


def choice(change: Callable[[Answer], Any]) -> Callable[[Answer], Answer]:
    """The right answer, but for its last choice."""

    def fault(answer: Answer) -> Answer:
        change(answer["choices"][-1])
        return answer

    return fault


def logprobs(*values: Any) -> Callable[[Answer], Answer]:
    """The last choice is one token, and these are its log-probabilities."""
    return completion([7] * 6, values=[*values, *[-1.0] * (6 - len(values))])


def completion(ids: Any, finish_reason: str = "length", values: Any = None) -> Callable[[Answer], Answer]:
    told = {"token_logprobs": [-1.0] * len(ids) if values is None else values}
    return choice(lambda one: one.update(token_ids=ids, finish_reason=finish_reason, logprobs=told))


def without_ids(one: Answer) -> None:
    del one["token_ids"]
    one["logprobs"]["tokens"] = ["w1"] * len(one["logprobs"]["tokens"])


STOP = Chat.from_words(WORDS).stop_id
NONSENSE: dict[str, tuple[Any, str]] = {
    "html": (lambda answer: b"<html>", "answered with no JSON: <html>"),
    "nested": (lambda answer: b"[" * 100_000, "answered with no JSON"),
    "a list": (lambda answer: b"[]", "no object"),
    "no choices": (lambda answer: answer | {"choices": None}, "no list of choices"),
    "choices of text": (lambda answer: answer | {"choices": ["a", "b"]}, "no list of choices"),
    "too few": (lambda answer: answer | {"choices": answer["choices"][:1]}, "with choices 1, expected 0 to 1"),
    "too many": (lambda answer: answer | {"choices": answer["choices"] * 2}, "with choices 0, 0, 1, 1, expected"),
    "one twice": (choice(lambda one: one.update(index=1)), "with choices 1, 1, expected"),
    "no ids": (choice(without_ids), "gave no token ids"),
    "ids of text": (completion(["7"] * 6), "no integers"),
    "ids that are true": (completion([True] * 6), "no integers"),
    "beyond the vocabulary": (completion([7] * 5 + [26]), "token 26, which is not in the policy's vocabulary of 26"),
    "below the vocabulary": (completion([-1] + [7] * 5), "token -1, which is not in the policy's vocabulary"),
    "nothing": (completion([]), "a completion of 0 tokens, expected 1 to 6"),
    "too long": (completion([7] * 7), "a completion of 7 tokens, expected 1 to 6"),
    "cut off": (completion([7] * 3), "cut a completion off after 3 tokens"),
    "on after its end": (completion([7, STOP, 7, 7, 7, 7]), "went on after the stop token"),
    "aborted": (completion([7] * 6, "abort"), "abort as the reason for an end that is length"),
    "an end that is a list": (completion([7] * 6, ["stop"]), "as the reason for an end that is length"),
    "stopped unsaid": (completion([7, STOP]), "length as the reason for an end that is stop"),
    "no logprobs": (choice(lambda one: one.update(logprobs=None)), "no log-probabilities"),
    "a logprob missing": (completion([7] * 6, values=[-1.0] * 5), "5 log-probabilities of 6 tokens"),
    "a logprob null": (logprobs(None), "None as a log-probability"),
    "a logprob of text": (logprobs("-1"), "-1 as a log-probability"),
    "a logprob above 0": (logprobs(0.1), "0.1 as a log-probability, expected a finite number up to 0"),
    "no number": (logprobs(float("nan")), "nan as a log-probability"),
    "no probability": (logprobs(float("-inf")), "-inf as a log-probability"),
    "a huge number": (logprobs(-(10**400)), "-1000.* as a log-probability"),
    "another prompt": (choice(lambda one: one.update(prompt_token_ids=[6])), "read another prompt"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_at_once(kind: str, stub: Stub, llama: Policy, tmp_path: Path) -> None:
    fault, told = NONSENSE[kind]
    stub.faults = lambda number: fault
    with pytest.raises(PreflowError, match=rf"the sampler server at .*{told}.*docs/samplers\.md") as found:
        draw(server(stub, tmp_path), llama)
    assert found.value.exit_code == 1
    assert len(stub.bodies("/v1/completions")) == 1


def test_a_version_that_is_none_is_nonsense_too(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    def nameless(answer: Answer) -> Answer:
        stub.version = ""
        return answer

    stub.faults = lambda number: nameless
    with pytest.raises(PreflowError, match=r"the sampler server at .* answered with no JSON"):
        draw(server(stub, tmp_path), llama)


def test_an_answer_without_an_end_is_not_read(
    stub: Stub, llama: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.remote.MOST", 10_000)
    stub.faults = lambda number: lambda answer: b" " * 20_000
    with pytest.raises(PreflowError, match="said more than 10000 bytes"):
        draw(server(stub, tmp_path), llama)


def test_ids_may_stand_in_place_of_texts(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    """As servers of before `return_token_ids` give them."""

    def older(answer: Answer) -> Answer:
        for one in answer["choices"]:
            del one["token_ids"], one["prompt_token_ids"]
        return answer

    expected = draw(server(stub, tmp_path), llama)
    stub.faults = lambda number: older
    assert draw(server(stub, tmp_path), llama) == expected


def test_a_stop_in_the_last_place_may_be_called_a_length(stub: Stub, llama: Policy, tmp_path: Path) -> None:
    stub.faults = lambda number: completion([7] * 5 + [STOP], "length")
    drawn = draw(server(stub, tmp_path), llama)
    assert [one.stop_reason for one in drawn if one.ids == [7] * 5 + [STOP]] == ["stop", "stop"]
