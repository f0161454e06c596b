"""What every on-policy algorithm is made of: the records it works on, and the pieces it shares with the others.

P prompts, G completions each, B = P*G sequences (prompt-major), T tokens. An algorithm is two functions: `prepare`
turns rollouts into advantages, once a batch; `loss` turns these into losses, at every optimiser step on that batch.
Knobs that several of them have:

kl_in, kl_estimator   where the KL penalty goes and how it is estimated (`rlhf.kl`). In the reward it is charged at the
                      log-probabilities of the rollouts: per completion, summed over its tokens, where the completion
                      is one action; per token where advantages are.
clip_low, clip_high   bounds 1 − clip_low and 1 + clip_high of the ratio π/π_old. They act from the second optimiser
                      step on a batch on: at the first the ratio is 1.
aggregation, fixed_length   those of `rlhf.masks.aggregate`; fixed_length is the longest completion there may be, and
                      every algorithm is built with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf.batching import Batch
from rlhf.kl import ESTIMATORS, Estimator, KlIn, k1
from rlhf.losses.policy_gradient import Metrics
from rlhf.masks import Aggregation, aggregate, kept


@dataclass(frozen=True)
class Rollouts:
    """Sampled completions and what was measured on them."""

    batch: Batch
    """[B, T] prompts with their completions."""
    old_logprobs: Tensor
    """[B, T] recorded when sampling, never recomputed (but see `Experience.importance`)."""
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
    """0 where the algorithm has no KL penalty."""
    old_values: Tensor | None = None
    returns: Tensor | None = None
    """[B, T] what the critic is to predict."""
    importance: Tensor | None = None
    """[B, T] truncated importance weights, detached; they multiply the policy's token losses, not KL nor value losses.
    Where they are set, `old_logprobs` are the learner's own before the first step. None: samples are the learner's."""
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
            importance=None if self.importance is None else cut(self.importance),
        )


Loss = Callable[[Experience, Tensor, Tensor | None], tuple[Tensor, Metrics]]
Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Metrics]]
"""(logprobs, old_logprobs, advantages, loss_mask), all [B, T], to token losses [B, T] and metrics."""


@dataclass(frozen=True)
class Algorithm:
    """Two functions and how their losses are averaged."""

    prepare: Callable[[Rollouts, float], Experience]
    """(rollouts, kl_coef) to advantages and returns."""
    loss: Loss
    """(experience, logprobs, values) to what each sequence adds to the step's loss [B], and metrics."""
    aggregation: Aggregation
    critic: bool = False
    """Whether a value model is trained beside the policy."""
    dynamic_sampling: bool = False
    """Whether prompts whose completions all have the same reward are to be replaced by others before `prepare`."""


def rows_of(batch: Batch, indices: Sequence[int]) -> Batch:
    """Some sequences of a batch, cut to the longest of them."""
    rows = list(indices)
    width = int(batch.attention_mask[rows].sum(dim=1).max())
    return Batch(batch.input_ids[rows, :width], batch.attention_mask[rows, :width], batch.loss_mask[rows, :width])


def sequence_kl(rollouts: Rollouts) -> Tensor:
    """log π(y)/π_ref(y) of each completion [B]: k1 summed over its tokens, unbiased for KL(π ‖ π_ref) in nats."""
    return kept(k1(rollouts.old_logprobs, rollouts.ref_logprobs), rollouts.batch.loss_mask).sum(dim=1)


def last_token(mask: Tensor) -> Tensor:
    """Index [B] of the last True of each row of `mask` [B, T]: where a completion ends, which padding hides."""
    return mask.long().cumsum(dim=1).argmax(dim=1)


def kl_charge(rollouts: Rollouts, kl_coef: float, kl_in: KlIn, kl_estimator: Estimator) -> Tensor:
    """kl_coef · estimate of each token [B, T], to be taken off the reward; 0 where KL does not go there."""
    if kl_in != "reward":
        return torch.zeros_like(rollouts.old_logprobs)
    return kl_coef * _kl(rollouts.old_logprobs, rollouts.ref_logprobs, rollouts.batch.loss_mask, kl_estimator)


def objective(rollouts: Rollouts, kl_coef: float, kl_in: KlIn, kl_estimator: Estimator) -> Tensor:
    """R = r − kl_coef · Σ_t estimate_t of each completion [B]; the reward alone where KL does not go there."""
    return rollouts.rewards - kl_charge(rollouts, kl_coef, kl_in, kl_estimator).sum(dim=1)


def token_rewards(rollouts: Rollouts, kl_coef: float, kl_in: KlIn, kl_estimator: Estimator) -> Tensor:
    """r_t = −kl_coef · estimate_t, plus the completion's reward at its LAST real token [B, T]; 0 outside the mask."""
    mask = rollouts.batch.loss_mask
    last = torch.arange(mask.shape[1], device=mask.device) == last_token(mask)[:, None]
    return kept(rollouts.rewards[:, None], last) - kl_charge(rollouts, kl_coef, kl_in, kl_estimator)


def experience_of(rollouts: Rollouts, advantages: Tensor, kl_coef: float, kl_in: KlIn) -> Experience:
    """Rollouts with advantages: of tokens [B, T], or of whole completions [B], which stand on each of their tokens."""
    if advantages.dim() == 1:
        advantages = advantages[:, None]
    return Experience(
        batch=rollouts.batch,
        old_logprobs=rollouts.old_logprobs,
        ref_logprobs=rollouts.ref_logprobs,
        advantages=kept(advantages, rollouts.batch.loss_mask),
        kl_coef=0.0 if kl_in == "none" else kl_coef,
    )


def over_batch_std(advantages: Tensor, eps: float = 1e-8) -> Tensor:
    """Advantages [B] divided by their (population) standard deviation over the batch; not shifted."""
    return advantages / (advantages.std(correction=0) + eps)


def policy_loss(
    surrogate: Surrogate,
    *,
    kl_in: KlIn,
    kl_estimator: Estimator,
    aggregation: Aggregation,
    fixed_length: int | None,
) -> Loss:
    """Surrogate, times the importance weights, plus kl_coef · estimate where KL goes into the loss; aggregated [B].

    Metrics are the surrogate's, and `kl_loss`: the estimate a token, without its coefficient.
    """

    def loss(experience: Experience, logprobs: Tensor, values: Tensor | None) -> tuple[Tensor, Metrics]:
        mask = experience.batch.loss_mask
        token_losses, metrics = surrogate(logprobs, experience.old_logprobs, experience.advantages, mask)
        if experience.importance is not None:
            token_losses = token_losses * kept(experience.importance, mask)
        if kl_in == "loss":
            penalty = _kl(logprobs, experience.ref_logprobs, mask, kl_estimator)
            metrics["kl_loss"] = penalty.detach()[mask]
            token_losses = token_losses + experience.kl_coef * penalty
        return aggregate(token_losses, mask, aggregation, fixed_length), metrics

    return loss


def _kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: Estimator) -> Tensor:
    """The estimate on each masked token, 0 elsewhere [B, T]."""
    return ESTIMATORS[estimator](kept(logprobs, mask), kept(ref_logprobs, mask))
