"""Means, variances and sums over the tokens that count. B sequences, T tokens; masks are bool, True on what counts.

What lies outside a mask is never multiplied away but left out: garbage there, infinities and NaN included, adds exactly
nothing to any result.
"""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "fixed"]


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask` holds and 0 elsewhere, whatever stood there, in value and in gradient."""
    return torch.where(mask, values, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` holds (same shapes); 0 where it holds nowhere."""
    return kept(values, mask).sum() / mask.sum().clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Population variance (divided by the count, not count − 1) of `values` where `mask` holds."""
    return masked_mean((kept(values, mask) - masked_mean(values, mask)) ** 2, mask)


def masked_whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """(x − mean) / √(variance + eps) over the tokens in `mask`: mean 0, population variance 1; 0 elsewhere.

    Padding neither shifts the moments nor receives a value. Equal values give exactly 0: moments are taken of
    differences to one of them, as their own mean may miss them by a rounding error, which 1/√eps would blow up.
    """
    values = values - values[mask][:1].sum()
    mean, variance = masked_mean(values, mask), masked_var(values, mask)
    return (kept(values, mask) - mean) * torch.rsqrt(variance + eps) * mask


def aggregate(token_losses: Tensor, mask: Tensor, how: Aggregation, fixed_length: int | None = None) -> Tensor:
    """What each sequence adds to the loss of a step, before the division by `denominator`. [B, T], [B, T] -> [B].

    With ℓ the losses of sequence i of length |a_i|, summed over its masked tokens, and B sequences in the step:
    sequence (1/B) Σ_i (1/|a_i|) Σ ℓ: every completion weighs the same, tokens of short ones weigh more (GRPO);
    token    Σ_i Σ ℓ / Σ_i |a_i|: every token weighs the same, long completions weigh more (DAPO);
    fixed    (1/B) Σ_i (1/L) Σ ℓ with L = `fixed_length`: every token the same whatever the batch (Dr. GRPO).
    Raises ValueError where `fixed` has no length.
    """
    sums = kept(token_losses, mask).sum(dim=1)
    if how == "sequence":
        return sums / mask.sum(dim=1).clamp(min=1)
    if how == "fixed":
        if fixed_length is None:
            raise ValueError("aggregation `fixed` got no fixed_length: give the longest completion there may be")
        return sums / fixed_length
    return sums


def denominator(mask: Tensor, how: Aggregation) -> float:
    """What the sum of `aggregate` over ALL sequences of an optimiser step is divided by: tokens or sequences."""
    return float(mask.sum()) if how == "token" else float(mask.shape[0])
