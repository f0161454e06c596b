"""Losses of reward models that learn from comparisons, and several rewards as one.

Shapes: B pairs or completions, K completions of one prompt, M members of an ensemble. Outcome and process reward models
are in `rlhf.losses.verification`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Combination = Literal["mean", "min", "mean_minus_std"]


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, centring: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ(r_c − r_r − m) + centring · (r_c + r_r)².

    P(chosen beats rejected) = σ(r_c − r_r) is Bradley and Terry's model (1952); the margin m asks for a larger gap
    where annotators saw one (Llama 2, 2307.09288); centring holds the free additive constant near 0 (Eisenstein et al.,
    2312.09244).

    Args:
        chosen: [B] rewards of the preferred completions.
        rejected: [B] rewards of the others, same prompts.
        margin: [B] ≥ 0, or None for 0.
        centring: weight of the squared sum; 0 leaves it out.

    Returns:
        [B] losses, and `accuracy` (ties half), `margin` (r_c − r_r), `chosen_reward`, `rejected_reward`.
    """
    gap = chosen - rejected
    losses = -F.logsigmoid(gap if margin is None else gap - margin)
    if centring:
        losses = losses + centring * (chosen + rejected) ** 2
    gap = gap.detach()
    return losses, {
        "accuracy": accuracy(gap),
        "margin": gap,
        "chosen_reward": chosen.detach(),
        "rejected_reward": rejected.detach(),
    }


def plackett_luce(rewards: Tensor, ranked: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """−log P(order) = −Σ_k [r_(k) − log Σ_{j≥k} exp r_(j)], the whole ranking of K completions at once.

    Plackett (1975) and Luce (1959): the best is drawn from all with probability ∝ exp r, then the best of the rest.
    With K = 2 this is `bradley_terry`. Used for K-wise comparisons by Starling (RLHF book, chapter 5).

    Args:
        rewards: [B, K], the best completion first.
        ranked: [B, K] bool, True where there is a completion (rankings of different length), True ones first.

    Returns:
        [B] losses, and `accuracy`: the share of pairs in the right order, ties half. Raises ValueError where a ranking
        has no two completions.
    """
    ranked = torch.ones_like(rewards, dtype=torch.bool) if ranked is None else ranked
    counts = ranked.sum(dim=-1)
    if bool((counts < 2).any()):
        raise ValueError(f"a ranking has {int(counts.min())} completions, expected at least 2")
    masked = rewards.masked_fill(~ranked, -torch.inf)
    rest = masked.flip(-1).logcumsumexp(-1).flip(-1)  # [B, K]; log Σ over this one and all that are ranked below
    losses = -(rewards - rest).masked_fill(~ranked, 0.0).sum(dim=-1)
    gaps = (rewards[:, :, None] - rewards[:, None, :]).detach()  # [B, K, K]
    pairs = (ranked[:, :, None] & ranked[:, None, :]).triu(diagonal=1)
    right = (accuracy(gaps) * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))
    return losses, {"accuracy": right}


def accuracy(gap: Tensor) -> Tensor:
    """1 where the preferred side is ahead, 0 where it is behind, ½ where they tie. Any shape."""
    return 0.5 * (1.0 + torch.sign(gap))


def combine(rewards: Tensor, how: Combination) -> Tensor:
    """Rewards [M, B] of M members as one [B]: their mean, the least of them, or mean − standard deviation.

    An optimiser looks for what one member overrates; the last two are worth little where members disagree, which takes
    that away (Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", 2310.02743). The deviation is over
    members with divisor M. Differs from the paper, whose uncertainty term is the variance with a weight of its own.
    """
    if how == "mean":
        return rewards.mean(dim=0)
    if how == "min":
        return rewards.min(dim=0).values
    return rewards.mean(dim=0) - rewards.std(dim=0, correction=0)
