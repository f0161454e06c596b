"""Supervised losses."""

from torch import Tensor


def completion_nll(logprobs: Tensor, loss_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """−log π(x_t | x_<t) on the tokens to be trained: L_SFT = −(1/N) Σ_{t ∈ mask} log π(x_t | x_<t) once averaged.

    The same as pretraining's cross-entropy but for the mask, which leaves prompts out (RLHF book, chapter 4).

    Args:
        logprobs: [B, T] of the tokens themselves.
        loss_mask: [B, T] bool, True on completion tokens, the stop token included.

    Returns:
        [N] losses of the N masked tokens, and `nll`.
    """
    losses = -logprobs[loss_mask]
    return losses, {"nll": losses.detach()}
