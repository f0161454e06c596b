"""cDPO: DPO for labels that are wrong at times."""

from torch import Tensor

from rlhf.losses.direct_alignment.dpo import dpo


def cdpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float, label_smoothing: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """−(1−ε) log σ(βh) − ε log σ(−βh), h = log π(y_c)/π_ref(y_c) − log π(y_r)/π_ref(y_r).

    Source: E. Mitchell, "A note on DPO with noisy preferences & relationship to IPO" (2023). The loss of DPO expected
    over a label that is flipped with probability ε. Its minimum is at σ(βh) = 1 − ε, so margins stay finite, where
    DPO's grow for ever. ε = 0 is DPO. Differs from its source: not at all.

    Args:
        chosen, rejected, ref_chosen, ref_rejected, beta: [B] and a number, as of `dpo`.
        label_smoothing: ε, 0 to below ½ (at ½ a label says nothing).

    Returns:
        [B] losses, and the metrics of `dpo`.

    Raises:
        ValueError: ε is outside [0, ½).
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}: expected 0 to below 0.5")
    as_labelled, metrics = dpo(chosen, rejected, ref_chosen, ref_rejected, beta)
    flipped, _ = dpo(rejected, chosen, ref_rejected, ref_chosen, beta)
    return (1.0 - label_smoothing) * as_labelled + label_smoothing * flipped, metrics
