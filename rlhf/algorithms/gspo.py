"""GSPO: one ratio a sequence."""

from dataclasses import replace
from functools import partial

from rlhf.algorithms.base import Algorithm, policy_loss
from rlhf.algorithms.grpo import grpo
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import sequence_surrogate
from rlhf.masks import Aggregation


def gspo(
    *,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "loss",
    kl_estimator: Estimator = "k3",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """GSPO (Zheng et al., 2507.18071): GRPO's advantages; the completion, not the token, is weighed and clipped.

        s_k = (π(y)/π_old(y))^(1/|y|);  A_k = (r_k − mean) / (std + 1e-4);  loss −min(s_k A_k, clip(s_k) A_k)

    The mean over tokens hardly moves where single tokens do, so the bounds are far narrower than elsewhere: the paper
    has clip_low 3e-4 and clip_high 4e-4, for large models at small learning rates, four steps a batch; where steps are
    larger, most completions are clipped from the second one on. At one optimiser step a batch it is GRPO; for
    completions of one token it always is, bounds apart. Averaged by sequence, as in the paper.
    Differs from the paper: a KL penalty is possible (the paper leaves it out), per token as in GRPO.
    """
    algorithm = grpo(
        clip_low=clip_low, clip_high=clip_high, kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation,
        fixed_length=fixed_length,
    )  # fmt: skip
    loss = policy_loss(
        partial(sequence_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return replace(algorithm, loss=loss)
