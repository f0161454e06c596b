"""CISPO: the importance weight is clipped, never the token."""

from dataclasses import replace
from functools import partial

from rlhf.algorithms.base import Algorithm, policy_loss
from rlhf.algorithms.grpo import grpo
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_weight
from rlhf.masks import Aggregation


def cispo(
    *,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "loss",
    kl_estimator: Estimator = "k3",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """CISPO (MiniMax-M1, 2506.13585, eq. 4 and 5): GRPO's advantages; every token keeps its gradient.

        A_k = (r_k − mean) / (std + 1e-4);  loss −sg(clip(ρ_t, 1 − clip_low, 1 + clip_high)) A_k log π(a_t)

    sg: without gradient; averaged over all tokens. Where PPO's clip drops the tokens that moved most, often rare ones
    that start a new thought, this one only bounds how much they weigh. The paper has no lower bound (clip_low 1 here)
    and does not say its upper one; clip_high 4 is a weight of at most 5, the value of ScaleRL (2510.13786).
    Differs from the paper: a KL penalty is possible (the paper has none), and dynamic sampling is DAPO's alone here.
    """
    algorithm = grpo(
        clip_low=clip_low, clip_high=clip_high, kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation,
        fixed_length=fixed_length,
    )  # fmt: skip
    loss = policy_loss(
        partial(clipped_weight, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return replace(algorithm, loss=loss)
