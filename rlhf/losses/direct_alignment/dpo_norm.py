"""Length-normalised DPO."""

from torch import Tensor

from rlhf.losses.direct_alignment.dpo import dpo


def dpo_norm(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ((β/|y_c|) log π(y_c)/π_ref(y_c) − (β/|y_r|) log π(y_r)/π_ref(y_r)).

    Source: Tülu 3 (Lambert et al.), 2411.15124. DPO's log-ratio is a sum, so a long completion can win by length alone;
    here it is a mean over tokens, so β is larger by about a completion's length (5 in the paper). With completions of
    one length L it is DPO with β/L. Differs from the paper: not at all.

    Args:
        chosen, rejected: [B] log π of the completions, SUMMED over their tokens.
        ref_chosen, ref_rejected: [B] the same of the frozen reference.
        chosen_lengths, rejected_lengths: [B] their tokens, above 0.
        beta: rewards per nat a token.

    Returns:
        [B] losses, and the metrics of `dpo`; `displacement` is that of the whole completion.
    """
    losses, metrics = dpo(
        chosen / chosen_lengths,
        rejected / rejected_lengths,
        ref_chosen / chosen_lengths,
        ref_rejected / rejected_lengths,
        beta,
    )
    return losses, metrics | {"displacement": (chosen - ref_chosen).detach()}
