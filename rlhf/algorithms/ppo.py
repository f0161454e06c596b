"""PPO with a critic."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from rlhf.advantages import gae
from rlhf.algorithms.base import Algorithm, Experience, Metrics, Rollouts, experience_of, policy_loss, token_rewards
from rlhf.kl import Estimator, KlIn
from rlhf.losses.policy_gradient import clipped_surrogate, clipped_value_loss
from rlhf.masks import Aggregation, aggregate, masked_whiten


def ppo(
    *,
    gamma: float,
    gae_lambda: float,
    whiten: bool,
    clip_low: float,
    clip_high: float,
    value_clip: float,
    kl_in: KlIn = "reward",
    kl_estimator: Estimator = "k1",
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """PPO (Schulman et al., 1707.06347) as in InstructGPT (2203.02155): a critic says what was to be expected.

        r_t = −kl_coef · k1_t, + r at the last token;  δ_t = r_t + γ V_{t+1} − V_t;  A_t = Σ_l (γλ)^l δ_{t+l}
        loss −min(ρ_t A_t, clip(ρ_t) A_t) + ½ max((V − R)², (clip(V, V_old ± value_clip) − R)²),  R = A + V_old

    `whiten` brings A to mean 0 and population variance 1 over the batch's completion tokens, after R was made of it.
    Differs from the paper: policy and critic are two networks with a learning rate and a gradient limit each, so no
    coefficient weighs their losses against each other; each optimiser step is on the whole batch, not on minibatches.
    `prepare` and the loss raise ValueError where there are no values.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        if rollouts.values is None:
            raise ValueError("ppo got rollouts without values: give `collect` a critic")
        mask = rollouts.batch.loss_mask
        rewards = token_rewards(rollouts, kl_coef, kl_in, kl_estimator)
        advantages, returns = gae(rewards, rollouts.values, mask, gamma, gae_lambda)
        experience = experience_of(rollouts, masked_whiten(advantages, mask) if whiten else advantages, kl_coef, kl_in)
        return replace(experience, old_values=rollouts.values, returns=returns)

    policy = policy_loss(
        partial(clipped_surrogate, clip_low=clip_low, clip_high=clip_high),
        kl_in=kl_in, kl_estimator=kl_estimator, aggregation=aggregation, fixed_length=fixed_length,
    )  # fmt: skip

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        if values is None or experience.old_values is None or experience.returns is None:
            raise ValueError("ppo's loss needs values: give `loss_of` a critic")
        mask = experience.batch.loss_mask
        losses, metrics = policy(experience, logprobs, values)
        value_losses, value_metrics = clipped_value_loss(
            values, experience.old_values, experience.returns, mask, value_clip
        )
        return losses + aggregate(value_losses, mask, aggregation, fixed_length), metrics | value_metrics

    return Algorithm(prepare, loss, aggregation, critic=True)
