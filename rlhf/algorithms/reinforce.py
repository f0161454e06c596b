"""REINFORCE."""

from torch import Tensor

from rlhf.advantages import centred
from rlhf.algorithms.base import (
    Algorithm,
    Experience,
    Metrics,
    Rollouts,
    experience_of,
    objective,
    over_batch_std,
    policy_loss,
)
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import reinforce as log_likelihood
from rlhf.masks import Aggregation


def reinforce(
    *,
    normalise: bool,
    kl_in: KlIn = "reward",
    kl_estimator: Estimator = "k1",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """REINFORCE (Williams 1992; RLHF book, chapter 6) with the mean of the batch as baseline.

        A_i = R_i − mean_B R,  R = r − kl_coef · Σ_t k1_t;  loss −A_i log π(a_t) on each token of completion i

    `normalise` divides A by its population standard deviation over the batch. With KL in the reward (k1), sums over
    tokens (`fixed`, up to its constant) and without `normalise`, the expected gradient is that of
    E[r] − kl_coef · KL(π ‖ π_ref), times (B − 1)/B: a completion's own reward is part of its baseline.
    Differs from the paper: the baseline is the batch's mean instead of a moving average of earlier ones.
    Made for one optimiser step a batch: it has no ratio that would correct for a policy that has moved since.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        advantages = centred(objective(rollouts, kl_coef, kl_in, kl_estimator)[None, :])[0]  # the batch as one group
        return experience_of(rollouts, over_batch_std(advantages) if normalise else advantages, kl_coef, kl_in)

    def surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
        return log_likelihood(logprobs, advantages, mask)

    loss = policy_loss(
        surrogate, kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length
    )
    return Algorithm(prepare, loss, aggregation)
