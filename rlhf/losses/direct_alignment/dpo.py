"""DPO: direct preference optimisation."""

import torch.nn.functional as F
from torch import Tensor

from rlhf.losses.direct_alignment.shared import pair_metrics


def dpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ(βh), h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r).

    Source: Rafailov et al., 2305.18290, equation 7; RLHF book, chapter 8. The policy that is best at reward minus
    β·KL has r = β log π/π_ref + β log Z, and Z cancels in the Bradley-Terry probability of a pair: this is that
    probability's negative log. ∂L/∂log π(y_c) = −β σ(r̂_r − r̂_c), the probability of the wrong order; the opposite for
    y_r. At π = π_ref the loss is log 2. Differs from the paper: not at all.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        ref_chosen, ref_rejected: [B] the same of the frozen reference.
        beta: how dear it is to leave the reference; rewards per nat.

    Returns:
        [B] losses, and `accuracy`, `margin`, `chosen_reward`, `rejected_reward`, `displacement`.
    """
    chosen_reward, rejected_reward = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    losses = -F.logsigmoid(chosen_reward - rejected_reward)
    metrics = pair_metrics(chosen_reward, rejected_reward)
    return losses, metrics | {"displacement": (chosen - ref_chosen).detach()}
