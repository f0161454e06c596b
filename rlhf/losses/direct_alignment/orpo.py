"""ORPO: odds-ratio preference optimisation, supervised learning and preference in one loss, without a reference."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.losses.direct_alignment.shared import pair_metrics

CERTAIN = -1e-6
"""Mean log-probability above which a completion counts as certain: its odds would be infinite."""


def orpo(
    chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, odds_coef: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """−ℓ_c − λ log σ(log odds(y_c) − log odds(y_r)), ℓ = log π(y)/|y|, odds = p/(1 − p) with p = exp(ℓ).

    Source: Hong et al., 2403.07691: p is the geometric mean of the tokens' probabilities, and the
    first term is the ordinary supervised loss of the chosen completion. There is no β: how far the policy may go is
    what the supervised term holds. Differs from the paper: ℓ is taken to be at most −1e-6 inside the odds, which are
    infinite at 0; and each completion's supervised loss is its own mean, so short ones weigh as much as long ones.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        chosen_lengths, rejected_lengths: [B] their tokens, above 0.
        odds_coef: λ, the weight of the preference.

    Returns:
        [B] losses, and `accuracy`, `margin` (log odds ratio), `chosen_reward`, `rejected_reward` (log odds), `nll`.
    """
    chosen_mean, rejected_mean = chosen / chosen_lengths, rejected / rejected_lengths
    chosen_odds, rejected_odds = log_odds(chosen_mean), log_odds(rejected_mean)
    losses = -chosen_mean - odds_coef * F.logsigmoid(chosen_odds - rejected_odds)
    return losses, pair_metrics(chosen_odds, rejected_odds) | {"nll": -chosen_mean.detach()}


def log_odds(logprobs: Tensor) -> Tensor:
    """log(p/(1 − p)) from log p ≤ 0, any shape, finite with finite gradients for every input.

    log(1 − p) is log(−expm1(log p)) for p near 1 and log1p(−p) for small p: neither cancels where it is used. Each
    branch sees only values at home in it, as an infinite gradient of the other one would turn into NaN in `where`.
    """
    logprobs = logprobs.clamp(max=CERTAIN)
    near_one = logprobs > -math.log(2.0)
    high = torch.log(-torch.expm1(torch.where(near_one, logprobs, -math.log(2.0))))
    low = torch.log1p(-torch.exp(torch.where(near_one, -math.log(2.0), logprobs)))
    return logprobs - torch.where(near_one, high, low)
