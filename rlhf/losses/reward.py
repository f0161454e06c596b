"""Losses of reward models."""

import torch
import torch.nn.functional as F
from torch import Tensor


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


def accuracy(gap: Tensor) -> Tensor:
    """1 where the preferred side is ahead, 0 where it is behind, ½ where they tie. Any shape."""
    return 0.5 * (1.0 + torch.sign(gap))
