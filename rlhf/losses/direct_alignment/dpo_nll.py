"""DPO with the supervised loss of the chosen completion."""

from torch import Tensor

from rlhf.losses.direct_alignment.dpo import dpo


def dpo_nll(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    beta: float,
    nll_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ(βh) − α log π(y_c)/|y_c|, h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r).

    Source: Pang et al., iterative reasoning preference optimisation, 2404.19733 (α = 1); Llama 3,
    2407.21783 (α = 0.2). DPO cares for the difference alone and often makes both sides less likely; the
    second term holds the chosen side up. α = 0 is DPO. Differs from the papers: not at all; Llama 3 also leaves
    the formatting tokens out of the loss, which is a matter of the mask.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        ref_chosen, ref_rejected: [B] the same of the frozen reference.
        chosen_lengths: [B] tokens of the chosen completions, above 0.
        beta: how dear it is to leave the reference; rewards per nat.
        nll_coef: α, the weight of a nat a token.

    Returns:
        [B] losses, and the metrics of `dpo` and `nll` (a token's, of chosen).
    """
    losses, metrics = dpo(chosen, rejected, ref_chosen, ref_rejected, beta)
    nll = -chosen / chosen_lengths
    return losses + nll_coef * nll, metrics | {"nll": nll.detach()}
