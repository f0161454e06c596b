"""Answers of a policy to a set of prompts: drawing them, what they are worth by every scorer, keeping them as rows.

Letters: P prompts, G completions a prompt, D demonstrations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf.batching import Batch, collate
from rlhf.chat import Chat, Message
from rlhf.cutting import micro_batches
from rlhf.models import Policy, token_logprobs
from rlhf.sampler import sample
from rlhf.scoring import Scorer, by_batch, rewards_of
from rlhf.spending import spent
from rlhf.world.gold import gold_reward
from rlhf.world.kinds import KINDS


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion as it is judged."""

    ids: tuple[int, ...]
    """Token ids, the stop token included where it stopped."""
    text: str
    logprob: float
    """log π(completion | prompt), summed over its tokens, of the policy it was drawn from."""
    stopped: bool


Answers = Sequence[Sequence[Answer]]  # [P][G]
Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How completions are drawn; equal for every policy of a comparison."""

    group_size: int
    temperature: float
    max_new_tokens: int
    batch_size: int
    seed: int

    def greedy(self) -> "Drawing":
        """The same, but one answer a prompt, always the likeliest token."""
        return replace(self, group_size=1, temperature=0.0)


def draw(policy: Policy, prompts: Ids, drawing: Drawing) -> list[list[Answer]]:
    """Answers of `policy` to P prompts (token ids), [P][G].

    The seed fixes the random number behind every token of every row, whatever the policy: equal policies give equal
    answers, and similar ones similar answers, which narrows paired differences.
    """
    completions = sample(
        policy,
        prompts,
        max_new_tokens=drawing.max_new_tokens,
        temperature=drawing.temperature,
        group_size=drawing.group_size,
        seed=drawing.seed,
        batch_size=drawing.batch_size,
    )
    answers: list[list[Answer]] = [[] for _ in prompts]
    for one in completions:
        text, stopped = policy.chat.decode(one.ids), one.stop_reason == "stop"
        answers[one.prompt_index].append(Answer(tuple(one.ids), text, math.fsum(one.logprobs), stopped))
    return answers


def answer_logprobs(
    policy: Policy, prompts: Ids, answers: Answers, *, temperature: float, max_batch_tokens: int
) -> NDArray[np.float64]:
    """log π(completion | prompt) of given answers under `policy` at the temperature they were drawn at, [P, G]."""

    def score(batch: Batch) -> torch.Tensor:
        return token_logprobs(policy.model, batch, temperature).double().sum(-1)

    return _grid(by_batch(score, _texts(prompts, answers), policy.chat.pad_id, max_batch_tokens), answers)


def answer_rewards(
    reward_model: Scorer, prompts: Ids, answers: Answers, *, unfinished_reward: float, max_batch_tokens: int
) -> NDArray[np.float64]:
    """Normalised reward of each answer, [P, G]; `unfinished_reward` where the answer was cut off."""
    stopped = [one.stopped for group in answers for one in group]
    rewards = rewards_of(reward_model, _texts(prompts, answers), stopped, unfinished_reward, max_batch_tokens)
    return _grid(rewards, answers)


def knows_gold(metas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the gold reward of every prompt is known."""
    return all(meta.get("kind") in KINDS for meta in metas)


def answer_golds(metas: Sequence[Mapping[str, Any]], answers: Answers) -> NDArray[np.float64] | None:
    """Gold reward of each answer, [P, G]; None unless the gold of every prompt is known.

    A mean over the known part only would compare policies on other prompts than all other figures do.
    """
    if not knows_gold(metas):
        return None
    judged = zip(metas, answers, strict=True)
    return np.array([[gold_reward(meta, one.text, one.stopped) for one in group] for meta, group in judged])


@spent("score")
@torch.no_grad()
def demonstration_nll(
    policy: Policy, demonstrations: Sequence[Sequence[Message]], max_batch_tokens: int
) -> NDArray[np.float64]:
    """Negative log-likelihood of each demonstration's last answer, nats a token, stop token included. Returns [D]."""
    encoded = [policy.chat.encode_conversation(messages) for messages in demonstrations]
    result = np.empty(len(encoded))
    for rows in micro_batches([len(ids) for ids, _ in encoded], max_batch_tokens):
        batch = collate([encoded[row] for row in rows], policy.chat.pad_id)
        total = token_logprobs(policy.model, batch).double().sum(-1)
        result[rows] = (-total / batch.loss_mask.sum(-1)).numpy()
    return result


def lengths(answers: Answers) -> NDArray[np.float64]:
    """Tokens of each answer, stop token included, [P, G]."""
    return np.array([[len(one.ids) for one in group] for group in answers], dtype=np.float64)


def stop_rates(answers: Answers) -> NDArray[np.float64]:
    """1 where the answer ended by itself, else 0, [P, G]."""
    return np.array([[one.stopped for one in group] for group in answers], dtype=np.float64)


def _texts(prompts: Ids, answers: Answers) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [(prompt, one.ids) for prompt, group in zip(prompts, answers, strict=True) for one in group]


def _grid(values: torch.Tensor, answers: Answers) -> NDArray[np.float64]:
    """[P·G] as [P, G]."""
    return np.array(values.tolist()).reshape(len(answers), -1)


def to_rows(
    prompts: Sequence[Mapping[str, Any]],
    answers: Answers,
    greedy: Answers,
    scores: Mapping[str, NDArray[np.float64] | None],
) -> list[dict[str, Any]]:
    """Rows of completions/<policy>.jsonl: what was asked and answered, and `scores` ([P, G] each) of every answer."""
    known = {name: values for name, values in scores.items() if values is not None}
    rows = []
    for index, (prompt, group, (best,)) in enumerate(zip(prompts, answers, greedy, strict=True)):
        scored = [
            _as_json(one) | {name: float(values[index, number]) for name, values in known.items()}
            for number, one in enumerate(group)
        ]
        row = {"id": prompt["id"], "messages": prompt["messages"], "completions": scored, "greedy": _as_json(best)}
        rows.append(row)
    return rows


def from_rows(rows: Sequence[Mapping[str, Any]], chat: Chat, same_chat: bool) -> tuple[Answers, Answers]:
    """The answers and greedy answers of rows that `to_rows` wrote.

    Under another tokenizer (`same_chat` False) the text is encoded again: its ids mean nothing here.
    """

    def answer(record: Mapping[str, Any]) -> Answer:
        stopped = record["stop_reason"] == "stop"
        text = record["text"]
        ids = record["ids"] if same_chat else [*chat.encode_text(text), *[chat.stop_id] * stopped]
        return Answer(tuple(ids), text, record["logprob"], stopped)

    return [[answer(one) for one in row["completions"]] for row in rows], [[answer(row["greedy"])] for row in rows]


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "ids": list(answer.ids),
        "logprob": answer.logprob,
        "stop_reason": "stop" if answer.stopped else "length",
    }
