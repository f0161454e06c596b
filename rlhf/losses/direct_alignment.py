"""Losses that learn from preference pairs without a reward model."""

import torch.nn.functional as F
from torch import Tensor

from rlhf.losses.reward import accuracy


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """−(1−ε) log σ(βh) − ε log σ(−βh), h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r).

    DPO (Rafailov et al., 2305.18290) with ε = 0; with ε > 0 the conservative form for labels that are wrong with
    probability ε (cDPO, E. Mitchell 2023). r̂ = β log π/π_ref is the implicit reward.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        ref_chosen, ref_rejected: [B] the same of the frozen reference.
        beta: inverse strength of the update: how dear it is to leave the reference.
        label_smoothing: ε, 0 to below ½.

    Returns:
        [B] losses, and `accuracy` (ties half: policy = reference gives ½), `margin`, `chosen_reward` and
        `rejected_reward` (implicit), `displacement` (log π/π_ref of chosen: often below 0, which is worth watching).
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}: expected 0 to below 0.5")
    chosen_reward, rejected_reward = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    margin = chosen_reward - rejected_reward
    losses = -(1.0 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    margin = margin.detach()
    return losses, {
        "accuracy": accuracy(margin),
        "margin": margin,
        "chosen_reward": chosen_reward.detach(),
        "rejected_reward": rejected_reward.detach(),
        "displacement": (chosen - ref_chosen).detach(),
    }
