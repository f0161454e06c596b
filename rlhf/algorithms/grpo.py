"""GRPO: rewards normalised within the group."""

from functools import partial

from rlhf.advantages import group_normalised
from rlhf.algorithms.base import Algorithm, Experience, Rollouts, experience_of, objective, policy_loss
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_surrogate
from rlhf.masks import Aggregation


def grpo(
    *,
    clip_low: float,
    clip_high: float,
    kl_in: KlIn = "loss",
    kl_estimator: Estimator = "k3",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """GRPO (Shao et al., 2402.03300; DeepSeek-R1): as good as the group's mean is 0, its spread is the unit.

        A_k = (r_k − mean) / (std + 1e-4);  loss −min(ρ_t A_k, clip(ρ_t) A_k) + kl_coef · k3_t, averaged by sequence

    std is the population one. Since rewards are divided by it, kl_coef is in units of the group's spread and not of
    reward, and prompts that are nearly always or nearly never answered well weigh more than their rewards say: the
    fixed point is not π_ref · exp(r/kl_coef). k3, the paper's, pulls as a loss with the gradient of KL(π_ref ‖ π); k2
    with that of KL(π ‖ π_ref). With KL in the reward it is normalised along with it.
    Differs from the paper: 1e-4 in the divisor, so that groups without contrast give 0 and not NaN; one reward a
    completion, no process rewards.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        groups = objective(rollouts, kl_coef, kl_in, kl_estimator).view(-1, rollouts.group_size)
        return experience_of(rollouts, group_normalised(groups).flatten(), kl_coef, kl_in)

    loss = policy_loss(
        partial(clipped_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip
    return Algorithm(prepare, loss, aggregation)
