"""Dr. GRPO: GRPO done right."""

from functools import partial

from rlhf.advantages import centred
from rlhf.algorithms.base import Algorithm, Experience, Rollouts, experience_of, objective, policy_loss
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_surrogate
from rlhf.masks import Aggregation


def dr_grpo(
    *,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "reward",
    kl_estimator: Estimator = "k1",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """Dr. GRPO (Liu et al., 2503.20783): GRPO without its two biases, division by the std and by the own length.

        A_k = R_k − mean of the group;  loss −min(ρ_t A_k, clip(ρ_t) A_k), summed over tokens, divided by L (`fixed`)

    Without the std no prompt weighs more for being easy or hard, and kl_coef is in units of reward; with the constant L
    no token weighs less for standing in a long completion. A is (G − 1)/G of RLOO's.
    Differs from the paper: the paper has no KL at all (`kl_in` none). With k1 in the reward the optimum is the tilted
    policy, π_ref · exp(r/kl_coef)/Z; in the loss, kl_coef weighs G/(G − 1) times as much, since only A is shrunk.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        groups = objective(rollouts, kl_coef, kl_in, kl_estimator).view(-1, rollouts.group_size)
        return experience_of(rollouts, centred(groups).flatten(), kl_coef, kl_in)

    loss = policy_loss(
        partial(clipped_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return Algorithm(prepare, loss, aggregation)
