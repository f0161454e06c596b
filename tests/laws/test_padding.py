"""Padding, its length, its content, the batch and its order change no number that is learnt from or reported.

Prompts and completions of different lengths, a model with rotary positions and one with learned absolute ones, which
shows wrong positions. Batches are padded on the right; padding on the left is refused, not misread
(tests/rlhf/test_models.py).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.models import Policy, RewardModel, ValueModel, logprobs_and_entropy
from rlhf.models.token_rewards import TokenRewardModel
from tests.rlhf.conftest import WORDS, tiny_gpt2, tiny_llama

CHAT = Chat.from_words(WORDS)
LENGTHS = [(9, 3), (2, 7), (4, 1), (14, 5), (3, 12)]
"""Of prompts and completions."""
SEQUENCES = [
    (
        [
            *torch.randint(
                7, CHAT.vocab_size, (prompt + answer - 1,), generator=torch.Generator().manual_seed(row)
            ).tolist(),
            CHAT.stop_id,
        ],
        [False] * prompt + [True] * answer,
    )
    for row, (prompt, answer) in enumerate(LENGTHS)
]

Measure = Callable[[Batch], Tensor]
"""[B], or [B, T] (with what else there is of a token behind)."""


def logprobs(policy: Policy) -> Measure:
    return lambda batch: logprobs_and_entropy(policy.model, batch, temperature=0.8)[0]


def entropy(policy: Policy) -> Measure:
    return lambda batch: logprobs_and_entropy(policy.model, batch, temperature=0.8)[1]


def values(policy: Policy) -> Measure:
    critic = ValueModel(policy.model)
    torch.nn.init.normal_(critic.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    return critic


def reward(policy: Policy) -> Measure:
    model = RewardModel(policy, 0)
    torch.nn.init.normal_(model.token_head[2].weight, std=0.2, generator=torch.Generator().manual_seed(0))
    return model


def outcome(policy: Policy) -> Measure:
    return lambda batch: TokenRewardModel(policy, 0).score(batch, "mean")


def process(policy: Policy) -> Measure:
    model = TokenRewardModel(policy, 0, separator="w3", classes=3)
    return lambda batch: model.score(batch, "min")


@pytest.mark.parametrize("measure", [logprobs, entropy, values, reward, outcome, process])
@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
@torch.no_grad()
def test_a_sequence_is_worth_the_same_in_any_company(
    model: Callable[[Chat], Policy], measure: Callable[[Policy], Measure]
) -> None:
    of = measure(model(CHAT))
    alone = [of(collate([sequence], CHAT.pad_id))[0] for sequence in SEQUENCES]
    if measure is process:  # something is read: the last token is the end of a step
        assert all(0 < one < 1 for one in alone)
    together = collate(SEQUENCES, CHAT.pad_id)
    longer = _padded(together, 9, CHAT.pad_id)
    garbage = Batch(longer.input_ids.masked_fill(~longer.attention_mask, 11), longer.attention_mask, longer.loss_mask)
    backwards = Batch(together.input_ids.flip(0), together.attention_mask.flip(0), together.loss_mask.flip(0))
    for found in (of(together), of(longer), of(garbage), of(backwards).flip(0)):
        for row, expected in enumerate(alone):
            here = found[row] if expected.dim() == 0 else found[row, : len(expected)]
            torch.testing.assert_close(here, expected, atol=1e-5, rtol=0)
            assert expected.dim() == 0 or not found[row, len(expected) :].any()


def _padded(batch: Batch, count: int, pad_id: int) -> Batch:
    """The same sequences with `count` more columns of padding."""
    pad = torch.nn.functional.pad
    return Batch(
        pad(batch.input_ids, (0, count), value=pad_id),
        pad(batch.attention_mask, (0, count)),
        pad(batch.loss_mask, (0, count)),
    )
