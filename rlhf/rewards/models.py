"""Rewards that were learnt: a reward model (or an ensemble, which scores as one), and claims of token models."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.losses.verification import Aggregation
from rlhf.models.token_rewards import TokenRewardModel
from rlhf.rewards.base import Asked, Component
from rlhf.sampler import Completion
from rlhf.scoring import Scorer, by_batch, rewards_of


def reward_model(model: Scorer, unfinished_reward: float, max_tokens: int) -> Component:
    """Scores of a reward model, and the fixed `unfinished_reward` for completions that were cut off.

    `max_tokens` is the most tokens of one pass through the model, padding counted.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        texts = [(prompts[one.prompt_index].ids, one.ids) for one in completions]
        stopped = [one.stop_reason == "stop" for one in completions]
        return rewards_of(model, texts, stopped, unfinished_reward, max_tokens)

    return component


def claims(model: TokenRewardModel, how: Aggregation, max_tokens: int) -> Component:
    """What an outcome or process model claims, P(right) in [0, 1]; 0 for a completion that was cut off."""

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        texts = [(prompts[one.prompt_index].ids, one.ids) for one in completions]
        scores = by_batch(lambda batch: model.score(batch, how), texts, model.chat.pad_id, max_tokens)
        return scores * torch.tensor([float(one.stop_reason == "stop") for one in completions])

    return component
