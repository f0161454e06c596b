"""KTO: Kahneman-Tversky optimisation, from completions that are each good or bad, without pairs."""

import torch
from torch import Tensor

from rlhf.losses.reward import accuracy


def kto(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    desirable: Tensor,
    baseline: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """λ_D (1 − σ(β(h − z))) where y is desirable, λ_U (1 − σ(β(z − h))) where not; h = log π(y|x)/π_ref(y|x).

    Source: Ethayarajh et al., 2402.01306. The gradient is largest at h = z and dies out on both sides: what is far on
    the right side is done, what is far on the wrong side is taken for noise. Differs from the paper: not at all; in
    data made of pairs the chosen side counts as desirable and the other one as not.

    Args:
        logprobs: [B] log π of the completions, SUMMED over their tokens.
        ref_logprobs: [B] the same of the frozen reference.
        desirable: [B] bool.
        baseline: z of the whole optimiser step, see `kto_baseline`; it carries no gradient.
        beta: how fast the value saturates; rewards per nat.
        desirable_weight, undesirable_weight: λ_D and λ_U. The paper's advice is λ_D·n_D about equal to λ_U·n_U, with n
            the number of each kind of completion; data made of pairs is balanced as it is.

    Returns:
        [B] losses, and `accuracy` (share on the right side of z, ties half), `margin` (how far: ±β(h − z)),
        `chosen_reward` (βh of the desirable ones), `rejected_reward` (βh of the others), `displacement` (h of the
        desirable ones). The last three have fewer than B values.
    """
    ratio = logprobs - ref_logprobs
    margin = beta * torch.where(desirable, ratio - baseline, baseline - ratio)
    weight = torch.where(desirable, ratio.new_tensor(desirable_weight), ratio.new_tensor(undesirable_weight))
    losses = weight * torch.sigmoid(-margin)  # 1 − σ(x) without the cancellation
    ratio, margin = ratio.detach(), margin.detach()
    return losses, {
        "accuracy": accuracy(margin),
        "margin": margin,
        "chosen_reward": beta * ratio[desirable],
        "rejected_reward": beta * ratio[~desirable],
        "displacement": ratio[desirable],
    }


def kto_baseline(logprobs: Tensor, ref_logprobs: Tensor) -> float:
    """z = max(0, mean of log π/π_ref over MISMATCHED prompts and completions), an estimate of KL(π‖π_ref).

    Source: 2402.01306: each prompt of the step is given the completion of another one. It is biased, and
    cheap: nothing is sampled. It must be that of the whole optimiser step: a z for each micro-batch would make the
    gradient depend on how the step was cut.

    Args:
        logprobs: [M] summed log π(y_j|x_i), j ≠ i; M = 0 gives 0.
        ref_logprobs: [M] the same of the frozen reference.
    """
    if not len(logprobs):
        return 0.0
    return max(0.0, (logprobs - ref_logprobs).mean().item())
