"""Drawing and scoring against one-at-a-time references, on random tiny models."""

import math

import numpy as np
import pytest
import torch

from rlhf.answers import (
    Answer,
    Drawing,
    answer_golds,
    answer_logprobs,
    answer_rewards,
    demonstration_nll,
    draw,
    from_rows,
    lengths,
    stop_rates,
    to_rows,
)
from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import Policy, RewardModel, new_policy

WORDS = ["red", "blue", "green", "one", "two", "three"]


def tiny(seed: int) -> Policy:
    return new_policy(
        Chat.from_words(WORDS), seed, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, init_std=0.4
    )


def drawing(**changes: float) -> Drawing:
    settings = {"group_size": 3, "temperature": 1.0, "max_new_tokens": 6, "batch_size": 4, "seed": 5}
    return Drawing(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny(0)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[list[int]]:
    return [policy.chat.encode_prompt([{"role": "user", "content": text}]) for text in ("red", "one two three", "blue")]


def test_the_logprob_of_an_answer_is_what_the_policy_gives_it_afterwards(
    policy: Policy, prompts: list[list[int]]
) -> None:
    answers = draw(policy, prompts, drawing(temperature=0.7))
    own = np.array([[one.logprob for one in group] for group in answers])
    again = answer_logprobs(policy, prompts, answers, temperature=0.7, max_batch_tokens=40)
    np.testing.assert_allclose(again, own, atol=1e-4)
    other = answer_logprobs(tiny(1), prompts, answers, temperature=0.7, max_batch_tokens=40)
    assert np.abs(other - own).max() > 0.1


def test_answers_are_those_of_the_greedy_rule_when_asked(policy: Policy, prompts: list[list[int]]) -> None:
    (first,), *_ = draw(policy, prompts, drawing().greedy())
    ids = list(prompts[0])
    for expected in first.ids:
        with torch.no_grad():
            logits = policy.model(torch.tensor([ids])).logits[0, -1]
        assert int(logits.argmax()) == expected
        ids.append(expected)


def test_rewards_are_those_of_one_sequence_at_a_time_and_fixed_where_cut_off(prompts: list[list[int]]) -> None:
    reward_model = RewardModel(tiny(2), seed=3)
    chat = reward_model.chat
    whole, cut = chat.encode_completion("red blue"), chat.encode_text("green green green")
    answers = [
        [Answer(tuple(whole), "red blue", -1.0, True), Answer(tuple(cut), "green green green", -1.0, False)]
        for _ in prompts
    ]
    rewards = answer_rewards(reward_model, prompts, answers, unfinished_reward=-2.0, max_batch_tokens=25)
    assert rewards[:, 1].tolist() == [-2.0] * 3
    for prompt, reward in zip(prompts, rewards[:, 0], strict=True):
        ids = [*prompt, *whole]
        with torch.no_grad():
            alone = reward_model(collate([(ids, [False] * len(ids))], chat.pad_id)).item()
        assert reward == pytest.approx(alone, abs=1e-5)


def test_gold_is_known_for_all_prompts_or_for_none() -> None:
    answers = [[Answer((1,), "good evening, dear anna.", 0.0, True)]] * 2
    meta = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "beach"}}
    known = answer_golds([meta, meta], answers)
    assert known is not None and known.shape == (2, 1)
    assert answer_golds([meta, {}], answers) is None


def test_nll_of_demonstrations_agrees_with_transformers(policy: Policy) -> None:
    conversations = [
        [{"role": "user", "content": "red"}, {"role": "assistant", "content": "one two"}],
        [{"role": "user", "content": "blue blue"}, {"role": "assistant", "content": "three"}],
    ]
    found = demonstration_nll(policy, conversations, max_batch_tokens=30)
    for messages, nll in zip(conversations, found, strict=True):
        ids, mask = policy.chat.encode_conversation(messages)
        labels = [token if trained else -100 for token, trained in zip(ids, mask, strict=True)]
        with torch.no_grad():
            reference = policy.model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert nll == pytest.approx(reference.item(), abs=1e-5)


def test_lengths_count_the_stop_token() -> None:
    answers = [[Answer((7, 8, 5), "red blue", -1.0, True), Answer((7, 8, 9, 9), "x", -1.0, False)]]
    assert lengths(answers).tolist() == [[3.0, 4.0]]
    assert stop_rates(answers).tolist() == [[1.0, 0.0]]


def test_rows_give_the_answers_back(policy: Policy, prompts: list[list[int]]) -> None:
    questions = [{"id": str(number), "messages": [{"role": "user", "content": "red"}]} for number in range(3)]
    answers, greedy = draw(policy, prompts, drawing()), draw(policy, prompts, drawing().greedy())
    rows = to_rows(questions, answers, greedy, {"reward": lengths(answers), "gold_reward": None})
    assert rows[1]["completions"][2]["reward"] == len(answers[1][2].ids)
    assert "gold_reward" not in rows[1]["completions"][2]
    assert from_rows(rows, policy.chat, same_chat=True) == (answers, greedy)


def test_rows_of_another_tokenizer_are_encoded_again() -> None:
    other = Chat.from_words(list(reversed(WORDS)))
    stopped = Answer(tuple(other.encode_completion("red two")), "red two", -3.5, True)
    cut = Answer(tuple(other.encode_text("red two")), "red two", -3.5, False)
    question = {"id": "a", "messages": [{"role": "user", "content": "red"}]}
    rows = to_rows([question], [[stopped, cut]], [[stopped]], {})
    chat = Chat.from_words(WORDS)
    answers, _ = from_rows(rows, chat, same_chat=False)
    assert list(answers[0][0].ids) == chat.encode_completion("red two")
    assert list(answers[0][1].ids) == chat.encode_text("red two")
    assert math.isclose(answers[0][0].logprob, -3.5)
