"""DAPO: decoupled clip and dynamic sampling."""

from dataclasses import replace

from torch import Tensor

from rlhf.algorithms.base import Algorithm, Experience, Rollouts
from rlhf.algorithms.grpo import grpo
from rlhf.kl import Estimator, KlIn
from rlhf.masks import Aggregation


def dapo(
    *,
    clip_low: float,
    clip_high: float,
    dynamic_sampling: bool,
    overlong_penalty: float,
    overlong_share: float,
    kl_in: KlIn = "none",
    kl_estimator: Estimator = "k3",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """DAPO (Yu et al., 2503.14476): GRPO with four changes, and no KL (`kl_in` none).

        A_k = (R_k − mean) / (std + 1e-4),  R = r + overlong_penalty · soft_overlong(length)
        loss −min(ρ_t A_k, clip(ρ_t, 1 − 0.2, 1 + 0.28) A_k) over all tokens

    Clip-higher: clip_high above clip_low leaves unlikely tokens room to grow. Dynamic sampling: prompts whose
    completions all have the same reward are replaced before (`Algorithm.dynamic_sampling`, done by whoever samples).
    Token aggregation: long completions count by their length. Soft overlong penalty: over the last `overlong_share` of
    the length limit.
    Differs from the paper: the window of the penalty is a share of the limit (0.2 is its 4096 of 20480 tokens), in
    units of our reward; cut-off completions stay in the loss; any group of equal rewards is without contrast, not only
    all right or all wrong. The metric `reward` is without the penalty. Raises ValueError where a penalty has no limit.
    """
    if overlong_penalty and fixed_length is None:
        raise ValueError("dapo got an overlong_penalty and no fixed_length: give the longest completion there may be")
    algorithm = grpo(
        clip_low=clip_low, clip_high=clip_high, kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation,
        fixed_length=fixed_length,
    )  # fmt: skip

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        rewards = rollouts.rewards
        if overlong_penalty and fixed_length is not None:
            lengths = rollouts.batch.loss_mask.sum(dim=1)
            rewards = rewards + overlong_penalty * soft_overlong(lengths, fixed_length, overlong_share * fixed_length)
        return algorithm.prepare(replace(rollouts, rewards=rewards), kl_coef)

    return replace(algorithm, prepare=prepare, dynamic_sampling=dynamic_sampling)


def soft_overlong(lengths: Tensor, limit: int, window: float) -> Tensor:
    """0 up to limit − window tokens, then falling linearly to −1 at `limit`, −1 beyond; same shape as `lengths`.

    (limit − window − length) / window within the window (2503.14476, eq. 13), which is above 0 tokens long.
    """
    return ((limit - window - lengths) / window).clamp(-1.0, 0.0)
