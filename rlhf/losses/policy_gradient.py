"""Policy-gradient losses, token by token. B sequences, T tokens; all tensors are [B, T].

What stands outside `loss_mask` means nothing and adds exactly nothing, infinities and NaN included. Metrics are over
the masked tokens, or over sequences where it says so. One vocabulary for all of them:

    ratio, ratio_max     ρ = π/π_old; 1 at the first optimiser step on a batch of rollouts
    clip_fraction        share of items the clipping acts on, with its two sides clip_fraction_high and _low
    approx_kl            ½ (log ρ)² a token, old policy to new
"""

import torch
from torch import Tensor

from rlhf.masks import kept

Metrics = dict[str, Tensor]

MAX_LOGRATIO = 20.0
"""Log-ratios are held within ± this before exp, which would overflow; an item beyond has no gradient."""


def reinforce(logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> tuple[Tensor, Metrics]:
    """−A_t log π(a_t): has the gradient of −(expected reward) on samples of the present policy (Williams 1992)."""
    return -kept(advantages, loss_mask) * kept(logprobs, loss_mask), {}


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """−min(ρ_t A_t, clip(ρ_t, 1 − clip_low, 1 + clip_high) A_t), ρ_t = π(a_t)/π_old(a_t). PPO (1707.06347).

    The gradient is 0 in exactly two regions: A > 0 with ρ > 1 + clip_high, and A < 0 with ρ < 1 − clip_low. At ρ = 1 it
    is that of `reinforce`.
    """
    logratio = _logratio(logprobs, old_logprobs, loss_mask)
    losses, ratio, too_high, too_low = _pessimistic(logratio, kept(advantages, loss_mask), clip_low, clip_high)
    return losses, _ratio_metrics(ratio[loss_mask], too_high[loss_mask], too_low[loss_mask], logratio[loss_mask])


def sequence_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """−min(s A, clip(s, 1 − clip_low, 1 + clip_high) A) on each token, s = exp(mean_t log ρ_t). GSPO (2507.18071).

    One ratio, and one decision to clip, a sequence: the ratio of the sequences' probabilities to the power 1/|a|. The
    loss stands on every token of its sequence, so that `aggregate` by sequence gives the paper's (1/B) Σ_i. ∇s is
    s · mean_t ∇log π_t. Ratio and clip metrics are over sequences.
    """
    logratio = _logratio(logprobs, old_logprobs, loss_mask)
    mean = logratio.sum(dim=1, keepdim=True) / loss_mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    losses, ratio, too_high, too_low = _pessimistic(mean, kept(advantages, loss_mask), clip_low, clip_high)
    metrics = _ratio_metrics(ratio.flatten(), too_high.any(dim=1), too_low.any(dim=1), logratio[loss_mask])
    return losses, metrics


def clipped_weight(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """−sg(clip(ρ_t, 1 − clip_low, 1 + clip_high)) A_t log π(a_t), sg without gradient. CISPO (2506.13585, eq. 4).

    The weight is cut, never the token: all of them keep a gradient, `clip_fraction` is the share whose weight was cut.
    clip_low = 1 is no lower bound. At ρ = 1 the gradient is that of `reinforce`.
    """
    logratio = _logratio(logprobs, old_logprobs, loss_mask).detach()
    ratio = logratio.exp()
    weights = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = -weights * kept(advantages, loss_mask) * kept(logprobs, loss_mask)
    ratios = ratio[loss_mask]
    return losses, _ratio_metrics(ratios, ratios > 1.0 + clip_high, ratios < 1.0 - clip_low, logratio[loss_mask])


@torch.no_grad()
def truncated_importance(
    logprobs: Tensor, sampler_logprobs: Tensor, loss_mask: Tensor, cap: float
) -> tuple[Tensor, Metrics]:
    """w_t = min(π_learner(a_t)/π_sampler(a_t), cap), log-ratio held within ±10; detached, 0 outside the mask.

    What to multiply token losses by where samples come from an engine whose numerics differ from the trainer's
    (truncated importance sampling: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training"; RLHF book, chapter 6). Both log-probabilities are of the same weights, before any optimiser step.

    Returns:
        [B, T] weights; over the masked tokens `importance`, `importance_max` and `importance_truncated` (share at the
        cap), and `sampler_gap` = |Δ log π| with `sampler_gap_max`.
    """
    logratio = kept(logprobs - sampler_logprobs, loss_mask).clamp(-10.0, 10.0)
    ratio = logratio.exp()
    weights = ratio.clamp(max=cap)
    gap = logratio.abs()[loss_mask]
    return kept(weights, loss_mask), {
        "importance": weights[loss_mask],
        "importance_max": weights[loss_mask],
        "importance_truncated": (ratio > cap)[loss_mask].float(),
        "sampler_gap": gap,
        "sampler_gap_max": gap,
    }


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, loss_mask: Tensor, clip: float
) -> tuple[Tensor, Metrics]:
    """½ max((V − R)², (clip(V, V_old ± clip) − R)²): the pessimistic of the two errors (PPO's reference code).

    Returns:
        [B, T] losses, and over the masked tokens `value_loss` and `value_clip_fraction`.
    """
    values, old_values, returns = (kept(tensor, loss_mask) for tensor in (values, old_values, returns))
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    errors, bounded_errors = (values - returns) ** 2, (bounded - returns) ** 2
    losses = 0.5 * torch.maximum(errors, bounded_errors)
    with torch.no_grad():
        metrics = {
            "value_loss": losses[loss_mask],
            "value_clip_fraction": (bounded_errors > errors)[loss_mask].float(),
        }
    return losses, metrics


def _logratio(logprobs: Tensor, old_logprobs: Tensor, loss_mask: Tensor) -> Tensor:
    return kept(logprobs - old_logprobs, loss_mask).clamp(-MAX_LOGRATIO, MAX_LOGRATIO)


def _pessimistic(
    logratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """−min(ρA, clip(ρ)A), ρ, and where the clip takes the gradient away on its high and low side."""
    ratio = logratio.exp()
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = torch.maximum(-ratio * advantages, -bounded * advantages)
    ratio = ratio.detach()
    return losses, ratio, (ratio > 1.0 + clip_high) & (advantages > 0), (ratio < 1.0 - clip_low) & (advantages < 0)


def _ratio_metrics(ratio: Tensor, too_high: Tensor, too_low: Tensor, logratio: Tensor) -> Metrics:
    """All 1-D: ratio and the two sides over the clipped items, `logratio` over tokens."""
    return {
        "ratio": ratio,
        "ratio_max": ratio,
        "clip_fraction": (too_high | too_low).float(),
        "clip_fraction_high": too_high.float(),
        "clip_fraction_low": too_low.float(),
        "approx_kl": 0.5 * logratio.detach() ** 2,
    }
