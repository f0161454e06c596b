"""RLOO: REINFORCE with a leave-one-out baseline."""

from functools import partial

from rlhf.advantages import leave_one_out
from rlhf.algorithms.base import Algorithm, Experience, Rollouts, experience_of, objective, over_batch_std, policy_loss
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_surrogate
from rlhf.masks import Aggregation


def rloo(
    *,
    normalise: bool,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "reward",
    kl_estimator: Estimator = "k1",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """RLOO (Ahmadian et al., 2402.14740): a prompt's other completions are the baseline.

        A_k = R_k − mean_{i≠k} R_i,  R = r − kl_coef · Σ_t k1_t;  loss −min(ρ_t A_k, clip(ρ_t) A_k)

    A stands on every token of the completion. The baseline does not know the completion's own reward, so with KL in the
    reward (k1), sums over tokens (`fixed`, up to its constant) and without `normalise`, the expected gradient is
    exactly that of E[r] − kl_coef · KL(π ‖ π_ref). `normalise` divides A by its population standard deviation over the
    batch. Raises ValueError where group_size is below 2.
    Differs from the paper: it has one optimiser step a batch, no ratio, and sums over tokens.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        groups = objective(rollouts, kl_coef, kl_in, kl_estimator).view(-1, rollouts.group_size)
        advantages = leave_one_out(groups).flatten()
        return experience_of(rollouts, over_batch_std(advantages) if normalise else advantages, kl_coef, kl_in)

    loss = policy_loss(
        partial(clipped_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return Algorithm(prepare, loss, aggregation)
