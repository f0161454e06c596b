"""Losses of models that say whether an answer, or each of its steps, is right; and how such claims become one number.

Shapes: B completions, T tokens. `loss_mask` [B, T] is True on completion tokens, `step_mask` [B, T] on the last token
of each step (the separator); logits stand at the token after which they were read.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Aggregation = Literal["mean", "min", "product", "last"]

RATINGS = (-1, 0, 1)
"""Ratings of a step (PRM800K): wrong, neither, right; as classes 0, 1, 2."""


def outcome_by_token(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−(1/T) Σ_t [r log p_t + (1 − r) log(1 − p_t)], p_t = σ(w_t): every token predicts how the answer turns out.

    Outcome reward model (Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2110.14168; RLHF book,
    chapter 5). Differs from the paper: no joint language-model loss here, T counts completion tokens only.

    Args:
        logits: [B, T] w_t.
        labels: [B] r, 1 where the answer is right, else 0.
        loss_mask: [B, T] bool, at least one True a row.

    Returns:
        [B] losses, and `accuracy` of the last token's claim (½ is a tie), `claimed` (its probability).
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels[:, None].expand_as(logits).to(logits), reduction="none")
    mean = (losses * loss_mask).sum(dim=1) / _count(loss_mask)
    return mean, _claims(aggregate(logits.detach().sigmoid(), loss_mask, "last"), labels)


def outcome_by_sequence(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−[r log p̄ + (1 − r) log(1 − p̄)], p̄ = σ((1/T) Σ_t w_t): the completion as a whole predicts how it turns out.

    The sequence form of the outcome reward model (RLHF book, chapter 5); the sigmoid comes after the mean. Arguments
    and returns as in `outcome_by_token`, the claim being p̄.
    """
    pooled = (logits * loss_mask).sum(dim=1) / _count(loss_mask)  # [B]
    losses = F.binary_cross_entropy_with_logits(pooled, labels.to(pooled), reduction="none")
    return losses, _claims(pooled.detach().sigmoid(), labels)


def process_binary(logits: Tensor, labels: Tensor, step_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−Σ_i [y_i log p_i + (1 − y_i) log(1 − p_i)] over the steps i of an answer, p_i = σ(w_i) at its separator.

    Process reward model (Lightman et al., "Let's Verify Step by Step", 2305.20050; Math-Shepherd, 2312.08935).

    Args:
        logits: [B, T] w.
        labels: [B, T], 1 where the step that ends here is right, else 0; read under `step_mask` only.
        step_mask: [B, T] bool.

    Returns:
        [B] losses, sums over steps (divide by the number of steps to make all steps count alike), and of each step
        `accuracy` (½ is a tie).
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    ahead = torch.sign(logits.detach()[step_mask]) * (2 * labels[step_mask].float() - 1)
    return (losses * step_mask).sum(dim=1), {"accuracy": 0.5 * (1 + ahead)}


def process_three_way(logits: Tensor, ratings: Tensor, step_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−Σ_i log softmax(w_i)[y_i] over steps, ratings −1, 0, 1 (wrong, neither, right) as classes 0, 1, 2.

    PRM800K's form (2305.20050). `logits` [B, T, 3], `ratings` [B, T] read under `step_mask` [B, T] only; returns as
    `process_binary`. Raises ValueError for another rating.
    """
    found = ratings[step_mask].long()  # [N]
    if bool((found.abs() > 1).any()):
        raise ValueError(f"ratings are {sorted(set(found.tolist()))}, expected only {list(RATINGS)}")
    by_step = F.cross_entropy(logits[step_mask], found + 1, reduction="none")  # [N]
    losses = torch.zeros(step_mask.shape, dtype=by_step.dtype, device=by_step.device).masked_scatter(step_mask, by_step)
    right = logits.detach()[step_mask].argmax(dim=-1) == found + 1
    return losses.sum(dim=1), {"accuracy": right.float()}


def not_wrong(logits: Tensor) -> Tensor:
    """P(rating is not −1) [B, T] from three-way logits [B, T, 3]: neither counts as right, as in 2305.20050."""
    return 1.0 - logits.softmax(dim=-1)[..., 0]


def aggregate(probabilities: Tensor, mask: Tensor, how: Aggregation) -> Tensor:
    """Claims [B, T] under `mask` as one number a completion [B]: their mean, least, product, or the last one.

    The least fails fast: one bad step spoils the answer. The product is the probability that no step is wrong, if
    they were independent, and falls with the number of steps. Raises ValueError where a row has nothing under `mask`.
    """
    if how == "mean":
        return (probabilities * mask).sum(dim=1) / _count(mask)
    counted = _count(mask)
    if how == "last":
        places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        last = places.masked_fill(~mask, -1).max(dim=1, keepdim=True).values
        return probabilities.gather(1, last).squeeze(1)
    kept = probabilities.masked_fill(~mask, 1.0)
    return kept.min(dim=1).values if how == "min" else kept.log().sum(dim=1).exp() * (counted > 0)


def _count(mask: Tensor) -> Tensor:
    counts = mask.sum(dim=1)
    if bool((counts == 0).any()):
        row = int((counts == 0).nonzero()[0])
        raise ValueError(f"row {row} has 0 tokens under its mask, expected at least 1")
    return counts


def _claims(claimed: Tensor, labels: Tensor) -> dict[str, Tensor]:
    ahead = torch.sign(claimed - 0.5) * (2 * labels.float() - 1)
    return {"accuracy": 0.5 * (1 + ahead), "claimed": claimed}
