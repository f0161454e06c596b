"""Components and their weighted sum, on completions made by hand."""

import pytest
import torch
from torch import Tensor

from rlhf import rewards
from rlhf.batching import Batch
from rlhf.chat import Chat
from rlhf.errors import NumericsError, PreflowError
from rlhf.rewards import Asked, Component
from rlhf.sampler import Completion

CHAT = Chat.from_words(["is", "it", "four", "4", "5", "yes"])
PROMPT = Asked(CHAT.encode_prompt([{"role": "user", "content": "is it 4"}]), [{"role": "user", "content": "is it 4"}],
               {"verifier": "number", "answer": "4"})  # fmt: skip


def said(text: str, stopped: bool = True, prompt: int = 0) -> Completion:
    ids = CHAT.encode_completion(text) if stopped else CHAT.encode_text(text)
    return Completion(prompt, ids, [-1.0] * len(ids), "stop" if stopped else "length")


def constant(*values: float) -> Component:
    return lambda prompts, completions: torch.tensor(values)


def test_total_is_the_weighted_sum_and_components_are_not_weighted() -> None:
    score = rewards.compose({"a": (2.0, constant(1.0, -1.0)), "b": (-0.5, constant(4.0, 0.0))})
    found = score([PROMPT], [said("yes"), said("it")])
    assert found.total.tolist() == [0.0, -2.0]
    assert {name: values.tolist() for name, values in found.components.items()} == {"a": [1.0, -1.0], "b": [4.0, 0.0]}


def test_what_is_no_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="0 reward components"):
        rewards.compose({})
    with pytest.raises(NumericsError, match="`odd` gave 1 of 2 values that are not finite"):
        rewards.compose({"odd": (0.0, constant(1.0, float("nan")))})([PROMPT], [said("yes")] * 2)
    with pytest.raises(NumericsError, match=r"`odd` gave shape \(3,\), expected \(2,\)"):
        rewards.compose({"odd": (1.0, constant(1.0, 1.0, 1.0))})([PROMPT], [said("yes")] * 2)


def test_rules_by_hand() -> None:
    completions = [said("it is 4"), said("it is 4", stopped=False), said("4 5"), said("yes")]
    assert rewards.verifier(CHAT.decode)([PROMPT], completions).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rewards.form(CHAT.decode, r"it is \d")([PROMPT], completions).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rewards.length(3)([PROMPT], completions).tolist() == [-1.0, 0.0, 0.0, 0.0]  # 4, 3, 3 and 2 tokens
    assert rewards.missing_stop([PROMPT], completions).tolist() == [0.0, -1.0, 0.0, 0.0]


def test_sentiment_is_of_the_completion_alone_whether_or_not_it_ended() -> None:
    scored = rewards.sentiment(CHAT.decode, {"yes": 1.0, "is": -3.0})
    completions = [said("yes"), said("yes", stopped=False), said("it is"), said("4")]
    assert scored([PROMPT], completions).tolist() == pytest.approx([1 / 4, 1 / 4, -3 / 24**0.5, 0.0])


def test_the_length_rule_is_the_soft_overlong_penalty() -> None:
    """DAPO: 0 up to L_max − L_cache, then (L_max − L_cache − L)/L_cache, −1 at L_max; here 6 and 4."""
    score = rewards.compose({"length": (1 / 4, rewards.length(6 - 4))})
    totals = score([PROMPT], [said(" ".join(["it"] * words)) for words in (1, 2, 5)]).total
    assert totals.tolist() == [0.0, -0.25, -1.0]


def test_each_completion_is_checked_against_its_own_prompt() -> None:
    other = Asked(PROMPT.ids, PROMPT.messages, {"verifier": "number", "answer": "5"})
    completions = [said("4", prompt=1), said("4", prompt=0), said("5", prompt=1)]
    assert rewards.verifier(CHAT.decode)([PROMPT, other], completions).tolist() == [0.0, 1.0, 1.0]


def test_a_prompt_that_cannot_be_verified_stops() -> None:
    with pytest.raises(PreflowError, match="no verifier"):
        rewards.verifier(CHAT.decode)([Asked([1], [], {})], [said("4")])
    with pytest.raises(PreflowError, match=r"format_pattern '\(' is no regular expression"):
        rewards.form(CHAT.decode, "(")


def test_what_a_pattern_cannot_tell_in_time_is_left_out_and_not_wrong() -> None:
    """In this process the search takes half a minute, in which no signal would be heard, and then says no."""
    chat = Chat.from_words(["a" * 27, "a", "b"])
    ids = {text: chat.encode_completion(text) for text in ("a" * 27 + " b", "a")}
    completions = [Completion(0, one, [-1.0] * len(one), "stop") for one in ids.values()]
    completions.append(Completion(0, ids["a"], [-1.0] * len(ids["a"]), "length"))
    asked = Asked([1], [], {"verifier": "regex", "answer": r"^(a+)+$"})
    parts = {
        "verifier": (1.0, rewards.verifier(chat.decode)), "form": (1.0, rewards.form(chat.decode, r"(a+)+")),
    }  # fmt: skip
    found = rewards.compose(parts, max_unscorable=0.5)([asked], completions)
    assert [values.isnan().tolist() for values in found.components.values()] == [[True, False, False]] * 2
    assert found.total[1:].tolist() == [2.0, 0.0]
    assert found.figures["unscorable"] == pytest.approx(1 / 3)


def test_what_a_row_knows_of_its_answer() -> None:
    row = {"messages": [{"role": "user", "content": "q"}], "meta": {"level": 2}, "answer": "7", "verifier": "number"}
    assert Asked.from_row(row, [1, 2]).meta == {"level": 2, "answer": "7", "verifier": "number"}
    assert Asked.from_row({"messages": []}, [1]).meta == {}


class Model:
    """Stands for a reward model: the number of completion tokens, times a factor."""

    chat = CHAT

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, batch: Batch) -> Tensor:
        return self.factor * batch.loss_mask.sum(dim=1).float()


def test_learnt_rewards() -> None:
    completions = [said("yes"), said("it is", stopped=False), said("it is 4")]
    scored = rewards.reward_model(Model(3.0), -7.0, 64)
    assert scored([PROMPT], completions).tolist() == [6.0, -7.0, 12.0]
