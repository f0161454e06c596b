"""KL divergence from policy to reference, estimated on tokens the POLICY sampled, and the coefficient that holds it.

With Δ = log π − log π_ref on a token drawn from π, the estimators of KL(π ‖ π_ref) are (J. Schulman, "Approximating KL
Divergence", 2020; RLHF book, chapter 15):

    k1 = Δ                      unbiased, may be negative, high variance
    k2 = Δ² / 2                 biased, ≥ 0
    k3 = exp(−Δ) − 1 + Δ        unbiased, ≥ 0

There are two places for the penalty, and they are not the same thing:

reward  The VALUE of the estimate is taken off the reward, per completion or per token, and never differentiated. With
        k1 the policy gradient is then exactly that of E[r] − kl_coef · KL(π ‖ π_ref).
loss    The estimate is added to the loss and differentiated, with the samples held fixed. So used k1 has expected
        gradient 0 (it holds nothing and adds noise), k2 that of KL(π ‖ π_ref), k3 that of the opposite direction,
        KL(π_ref ‖ π). Each token answers for its own KL alone, not for that of the tokens it leads to; and from the
        second optimiser step on, the samples are those of an older policy.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
KlIn = Literal["reward", "loss", "none"]
"""Where the penalty goes."""

MAX_LOGRATIO = 20.0
"""Beyond this many nats k3 stays as it is, without gradient: exp would overflow, and no sampled token gets there."""


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log π − log π_ref; same shape as the arguments."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log π − log π_ref)² / 2; same shape as the arguments."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """π_ref/π − 1 − log(π_ref/π); same shape as the arguments."""
    logratio = (ref_logprobs - logprobs).clamp(max=MAX_LOGRATIO)
    return torch.expm1(logratio) - logratio


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def adapt_kl_coef(kl_coef: float, kl: float, target: float, rate: float = 0.1) -> float:
    """kl_coef · (1 + rate · clip(kl/target − 1, −0.2, 0.2)): stronger where KL is above target (Ziegler et al. 2019).

    Args:
        kl: measured KL to the reference, nats a sequence.
        target: where to hold it, nats a sequence, above 0.
        rate: share of the clipped relative error that one update corrects; 0.1 in the original.
    """
    if target <= 0:
        raise ValueError(f"kl target is {target} nats a sequence: expected above 0 (for a fixed coefficient set none)")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + rate * error)
