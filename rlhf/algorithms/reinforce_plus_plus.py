"""REINFORCE++: PPO without a critic."""

from functools import partial

from rlhf.advantages import returns_to_go
from rlhf.algorithms.base import Algorithm, Experience, Rollouts, experience_of, policy_loss, token_rewards
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_surrogate
from rlhf.masks import Aggregation, masked_whiten


def reinforce_plus_plus(
    *,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "reward",
    kl_estimator: Estimator = "k1",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """REINFORCE++ (Hu et al., 2501.03262): the return from each token on, normalised over the whole batch.

        r_t = −kl_coef · k1_t, + r at the last token;  A_t = Σ_{s ≥ t} r_s, whitened;  loss −min(ρ_t A_t, clip(ρ_t) A_t)

    Whitening is to mean 0 and population variance 1 over all completion tokens of the batch, of all prompts: it moves
    no fixed point, as it divides reward and KL by one number. A token pays for the KL of itself and of what comes after
    it, not for that of what came before. The prompt does not matter to the baseline: any group_size will do, 1 in the
    paper.
    Differs from the paper: whitening has 1e-8 beside the variance, and neither rewards nor advantages are clipped.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        mask = rollouts.batch.loss_mask
        returns = returns_to_go(token_rewards(rollouts, kl_coef, kl_in, kl_estimator), mask)
        return experience_of(rollouts, masked_whiten(returns, mask), kl_coef, kl_in)

    loss = policy_loss(
        partial(clipped_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return Algorithm(prepare, loss, aggregation)
