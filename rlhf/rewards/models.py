"""Rewards that were learnt: one reward model, or several as one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.losses.reward import Combination, combine
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


def ensemble(members: Sequence[Component], how: Combination = "mean") -> Component:
    """Several rewards as one, completion by completion (Coste et al., "Reward Model Ensembles", 2310.02743).

    Members must be on one scale (reward models are, once normalised on the same samples); `how` is explained in
    `rlhf.losses.reward.combine`.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        return combine(torch.stack([member(prompts, completions) for member in members]), how)

    return component


def claims(model: TokenRewardModel, how: Aggregation, max_tokens: int) -> Component:
    """What an outcome or process model claims, P(right) in [0, 1]; 0 for a completion that was cut off."""

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        texts = [(prompts[one.prompt_index].ids, one.ids) for one in completions]
        scores = by_batch(lambda batch: model.score(batch, how), texts, model.chat.pad_id, max_tokens)
        return scores * torch.tensor([float(one.stop_reason == "stop") for one in completions])

    return component
