"""SimPO: simple preference optimisation, length-normalised and without a reference."""

import torch.nn.functional as F
from torch import Tensor

from rlhf.losses.direct_alignment.shared import pair_metrics


def simpo(
    chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float, gamma: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ((β/|y_c|) log π(y_c) − (β/|y_r|) log π(y_r) − γ).

    Source: Meng et al., 2405.14734, equation 6. What is compared is what a sampler goes by, the mean log-probability of
    a token; γ asks for a margin. Nothing holds the policy to where it began but a small learning rate. γ = 0 is
    length-normalised DPO with a reference to which all tokens are equally likely. Differs from the paper: not at all.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        chosen_lengths, rejected_lengths: [B] their tokens, above 0.
        beta: scale of the rewards, per nat a token: 2 to 10, far above DPO's.
        gamma: margin asked for, in units of reward; the authors' advice is γ/β between 0 and 1, 0.5 to begin with;
            theirs: 0.1 to 0.8.

    Returns:
        [B] losses, and `accuracy` (of r̂_c > r̂_r, γ left out), `margin`, `chosen_reward`, `rejected_reward`.
    """
    chosen_reward, rejected_reward = beta * chosen / chosen_lengths, beta * rejected / rejected_lengths
    return -F.logsigmoid(chosen_reward - rejected_reward - gamma), pair_metrics(chosen_reward, rejected_reward)
