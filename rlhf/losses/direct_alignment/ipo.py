"""IPO: identity preference optimisation."""

from torch import Tensor

from rlhf.losses.direct_alignment.shared import pair_metrics


def ipo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """(h − 1/(2β))², h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r).

    Source: Azar et al., 2310.12036, equation 17, with β for the paper's τ. A regression of the log-ratio on a fixed
    gap, so pairs that are already far enough apart are pulled BACK: a label that is always the same does not drive the
    policy away from the reference for ever, as it does in DPO. At π = π_ref the loss is 1/(4β²), 25 at β = 0.1: not to
    be compared with DPO's. ∂L/∂log π(y_c) = 2(h − 1/(2β)).

    Differs from the paper: not at all. h is made of log-probabilities SUMMED over tokens, since the theory is about
    probabilities of whole completions. TRL divides each side by its length first, which is another objective: there
    the gap is one a token, so the same β asks for one that is longer by about a completion's length.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        ref_chosen, ref_rejected: [B] the same of the frozen reference.
        beta: half the inverse of the gap in nats that is asked for: 0.1 asks for 5.

    Returns:
        [B] losses, and `accuracy`, `margin` (βh: ½ at the minimum), `chosen_reward`, `rejected_reward`, `displacement`.
    """
    chosen_ratio, rejected_ratio = chosen - ref_chosen, rejected - ref_rejected
    losses = (chosen_ratio - rejected_ratio - 1.0 / (2.0 * beta)) ** 2
    metrics = pair_metrics(beta * chosen_ratio, beta * rejected_ratio)
    return losses, metrics | {"displacement": chosen_ratio.detach()}
