"""What makes one on-policy algorithm: how rewards become advantages, and what loss they go into.

Each is one function of its own knobs that returns an `Algorithm`; sampling, scoring and the optimiser loop are the same
for all (`rlhf.online`, `rlhf.trainer`). P prompts, G completions each, B = P*G sequences (prompt-major), T tokens.
`aggregation` and `fixed_length` are those of `rlhf.masks.aggregate`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf.advantages import gae, group_normalised, leave_one_out
from rlhf.batching import Batch
from rlhf.kl import ESTIMATORS, Estimator, k1
from rlhf.losses.policy_gradient import clipped_surrogate, clipped_value_loss
from rlhf.losses.policy_gradient import reinforce as reinforce_loss
from rlhf.masks import Aggregation, aggregate, masked_whiten

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Rollouts:
    """Sampled completions and what was measured on them."""

    batch: Batch
    """[B, T] prompts with their completions."""
    old_logprobs: Tensor
    """[B, T] recorded when sampling, never recomputed."""
    ref_logprobs: Tensor
    """[B, T] of the frozen reference."""
    rewards: Tensor
    """[B] one a completion, penalties included, KL not."""
    stopped: Tensor
    """[B] bool; whether the completion ended with the stop token."""
    group_size: int
    """G; rows p*G … p*G + G − 1 belong to prompt p."""
    values: Tensor | None
    """[B, T] the critic's value of the state before each token; None where there is no critic."""


@dataclass(frozen=True)
class Experience:
    """Rollouts with their targets: what the loss is computed from, whole or in micro-batches."""

    batch: Batch
    old_logprobs: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    """[B, T]."""
    kl_coef: float
    old_values: Tensor | None = None
    returns: Tensor | None = None
    """[B, T] what the critic is to predict."""
    fresh: bool = True
    """Whether the policy has not moved since these were sampled."""

    def rows(self, indices: Sequence[int]) -> "Experience":
        """Some sequences, cut to the longest of them."""
        batch = rows_of(self.batch, indices)
        width = batch.input_ids.shape[1]

        def cut(tensor: Tensor) -> Tensor:
            return tensor[list(indices), :width]

        return replace(
            self,
            batch=batch,
            old_logprobs=cut(self.old_logprobs),
            ref_logprobs=cut(self.ref_logprobs),
            advantages=cut(self.advantages),
            old_values=None if self.old_values is None else cut(self.old_values),
            returns=None if self.returns is None else cut(self.returns),
        )


@dataclass(frozen=True)
class Algorithm:
    """Two functions and how their losses are averaged."""

    prepare: Callable[[Rollouts, float], Experience]
    """(rollouts, kl_coef) to advantages and returns."""
    loss: Callable[[Experience, Tensor, Tensor | None], tuple[Tensor, Metrics]]
    """(experience, logprobs, values) to what each sequence adds to the step's loss [B], and metrics."""
    aggregation: Aggregation
    critic: bool = False
    """Whether a value model is trained beside the policy."""


def rows_of(batch: Batch, indices: Sequence[int]) -> Batch:
    """Some sequences of a batch, cut to the longest of them."""
    rows = list(indices)
    width = int(batch.attention_mask[rows].sum(dim=1).max())
    return Batch(batch.input_ids[rows, :width], batch.attention_mask[rows, :width], batch.loss_mask[rows, :width])


def sequence_kl(rollouts: Rollouts) -> Tensor:
    """log π(y)/π_ref(y) of each completion [B]: k1 summed over its tokens, unbiased for KL(π ‖ π_ref) in nats."""
    return (k1(rollouts.old_logprobs, rollouts.ref_logprobs) * rollouts.batch.loss_mask).sum(dim=1)


def reinforce(*, normalise: bool, aggregation: Aggregation, fixed_length: int | None = None) -> Algorithm:
    """REINFORCE with the batch mean as baseline: A_i = R_i − mean R, R = r − kl_coef · log π(y)/π_ref(y).

    Made for one inner step: it has no ratio that would correct for a policy that has moved since.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        objective = rollouts.rewards - kl_coef * sequence_kl(rollouts)
        return _bandit(rollouts, objective - objective.mean(), kl_coef, normalise)

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        token_losses, metrics = reinforce_loss(logprobs, experience.advantages)
        return aggregate(token_losses, experience.batch.loss_mask, aggregation, fixed_length), metrics

    return Algorithm(prepare, loss, aggregation)


def rloo(
    *,
    normalise: bool,
    clip_low: float,
    clip_high: float,
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """RLOO (2402.14740): the prompt's other completions are the baseline; KL in the reward, summed over the sequence.

    A_k = R_k − mean_{i≠k} R_i with R = r − kl_coef · log π(y)/π_ref(y), the same for all tokens of a completion.
    Differs from the paper in that advantages may be divided by their standard deviation over the batch (`normalise`),
    and in the clipped ratio, which acts from the second inner step on.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        objective = rollouts.rewards - kl_coef * sequence_kl(rollouts)
        advantages = leave_one_out(objective.view(-1, rollouts.group_size)).view(-1)
        return _bandit(rollouts, advantages, kl_coef, normalise)

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        token_losses, metrics = _surrogate(experience, logprobs, clip_low, clip_high)
        return aggregate(token_losses, experience.batch.loss_mask, aggregation, fixed_length), metrics

    return Algorithm(prepare, loss, aggregation)


def grpo(
    *,
    clip_low: float,
    clip_high: float,
    kl_estimator: Estimator,
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """GRPO (2402.03300): rewards normalised within the group, kl_coef · KL estimate of each token in the loss.

    A_k = (r_k − mean) / (std + 1e-4), population std; loss −min(ρA, clip(ρ)A) + kl_coef · k3. Since rewards are divided
    by their spread, kl_coef is not in units of reward here. k3 is the paper's choice; differentiated, it pulls with the
    gradient of KL(π_ref ‖ π). `kl_estimator` k2 gives that of KL(π ‖ π_ref).
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        advantages = group_normalised(rollouts.rewards.view(-1, rollouts.group_size)).view(-1)
        return _bandit(rollouts, advantages, kl_coef, normalise=False)

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        token_losses, metrics = _surrogate(experience, logprobs, clip_low, clip_high)
        penalty = ESTIMATORS[kl_estimator](logprobs, experience.ref_logprobs)
        metrics["kl_loss"] = penalty.detach()[experience.batch.loss_mask]
        token_losses = token_losses + experience.kl_coef * penalty
        return aggregate(token_losses, experience.batch.loss_mask, aggregation, fixed_length), metrics

    return Algorithm(prepare, loss, aggregation)


def ppo(
    *,
    gamma: float,
    gae_lambda: float,
    whiten: bool,
    clip_low: float,
    clip_high: float,
    value_clip: float,
    aggregation: Aggregation,
    fixed_length: int | None = None,
) -> Algorithm:
    """PPO with a critic (1707.06347, as in InstructGPT): r_t = −kl_coef · (log π − log π_ref)_t, plus the reward at the
    last real token; advantages by GAE, whitened over the batch's real tokens; clipped policy and value losses.

    Policy and critic are two networks with a learning rate and a gradient limit each, so no coefficient weighs their
    losses against each other.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        if rollouts.values is None:
            raise ValueError("ppo got rollouts without values: give `collect` a critic")
        mask = rollouts.batch.loss_mask
        rewards = -kl_coef * k1(rollouts.old_logprobs, rollouts.ref_logprobs) * mask
        rewards[torch.arange(len(mask)), last_token(mask)] += rollouts.rewards
        advantages, returns = gae(rewards, rollouts.values, mask, gamma, gae_lambda)
        return Experience(
            batch=rollouts.batch,
            old_logprobs=rollouts.old_logprobs,
            ref_logprobs=rollouts.ref_logprobs,
            advantages=masked_whiten(advantages, mask) if whiten else advantages,
            kl_coef=kl_coef,
            old_values=rollouts.values,
            returns=returns,
        )

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        if values is None or experience.old_values is None or experience.returns is None:
            raise ValueError("ppo's loss needs values: give `loss_of` a critic")
        mask = experience.batch.loss_mask
        token_losses, metrics = _surrogate(experience, logprobs, clip_low, clip_high)
        value_losses, value_metrics = clipped_value_loss(
            values, experience.old_values, experience.returns, mask, value_clip
        )
        return aggregate(token_losses + value_losses, mask, aggregation, fixed_length), metrics | value_metrics

    return Algorithm(prepare, loss, aggregation, critic=True)


ALGORITHMS: Mapping[str, Callable[..., Algorithm]] = {"reinforce": reinforce, "rloo": rloo, "grpo": grpo, "ppo": ppo}


def last_token(mask: Tensor) -> Tensor:
    """Index [B] of the last True of each row of `mask` [B, T]: where a completion ends, which padding hides."""
    return mask.long().cumsum(dim=1).argmax(dim=1)


def _bandit(rollouts: Rollouts, advantages: Tensor, kl_coef: float, normalise: bool) -> Experience:
    """The whole completion as one action: its advantage [B] on each of its tokens."""
    if normalise:
        advantages = advantages / (advantages.std(correction=0) + 1e-8)
    return Experience(
        batch=rollouts.batch,
        old_logprobs=rollouts.old_logprobs,
        ref_logprobs=rollouts.ref_logprobs,
        advantages=advantages[:, None] * rollouts.batch.loss_mask,
        kl_coef=kl_coef,
    )


def _surrogate(experience: Experience, logprobs: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Metrics]:
    return clipped_surrogate(
        logprobs, experience.old_logprobs, experience.advantages, experience.batch.loss_mask, clip_low, clip_high
    )
