"""Policy-gradient losses, token by token. All tensors are [B, T]; values outside `loss_mask` mean nothing."""

import torch
from torch import Tensor


def reinforce(logprobs: Tensor, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−A_t log π(a_t): has the gradient of −(expected reward) on samples of the present policy (Williams 1992)."""
    return -advantages * logprobs, {}


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """−min(ρ_t A_t, clip(ρ_t, 1 − clip_low, 1 + clip_high) A_t), ρ_t = π(a_t)/π_old(a_t). PPO (1707.06347).

    The gradient is 0 in exactly two regions: A > 0 with ρ > 1 + clip_high, and A < 0 with ρ < 1 − clip_low. At ρ = 1 it
    is that of `reinforce`.

    Returns:
        [B, T] losses, and over the masked tokens: `ratio`, `ratio_max`, `clip_fraction` (share without gradient) with
        its two sides, `approx_kl` = ½ (log ρ)² (old policy to new).
    """
    logratio = logprobs - old_logprobs
    ratio = logratio.exp()
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = torch.maximum(-ratio * advantages, -bounded * advantages)
    with torch.no_grad():
        too_high = ((ratio > 1.0 + clip_high) & (advantages > 0))[loss_mask].float()
        too_low = ((ratio < 1.0 - clip_low) & (advantages < 0))[loss_mask].float()
        metrics = {
            "ratio": ratio[loss_mask],
            "ratio_max": ratio[loss_mask],
            "clip_fraction": too_high + too_low,
            "clip_fraction_high": too_high,
            "clip_fraction_low": too_low,
            "approx_kl": 0.5 * logratio[loss_mask] ** 2,
        }
    return losses, metrics


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, loss_mask: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """½ max((V − R)², (clip(V, V_old ± clip) − R)²): the pessimistic of the two errors (PPO's reference code).

    Returns:
        [B, T] losses, and over the masked tokens `value_loss` and `value_clip_fraction`.
    """
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    errors, bounded_errors = (values - returns) ** 2, (bounded - returns) ** 2
    losses = 0.5 * torch.maximum(errors, bounded_errors)
    with torch.no_grad():
        metrics = {
            "value_loss": losses[loss_mask],
            "value_clip_fraction": (bounded_errors > errors)[loss_mask].float(),
        }
    return losses, metrics
