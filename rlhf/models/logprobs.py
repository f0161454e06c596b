"""Log-probabilities and entropies of chosen tokens from logits, with one copy of the logits in memory.

The usual way keeps logits, their exponentials and a gradient, each [N, V]. Here all is computed a few rows at a time,
on a processor while these are in its cache, and the backward pass writes the gradient where the logits were.

Shapes: N tokens, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VALUES_AT_ONCE = 2**18
"""Logits that are worked on at a time: a megabyte of float32, about a core's cache."""
ON_A_GPU = 2**24
"""The same where there is one: enough to keep it busy, and 64 MiB."""


def picked_logprobs(
    logits: Tensor, targets: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log softmax(logits / temperature) at targets [N], and the entropy in nats of each row, 0 where not asked for.

    `logits` [N, V] are used up by the backward pass, which is possible once: nothing else may read them after it. The
    entropy carries no gradient.
    """
    found: tuple[Tensor, Tensor] = _Picked.apply(logits, targets, temperature, with_entropy)  # type: ignore[no-untyped-call]
    return found


class _Picked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        picked = logits.gather(-1, targets[:, None]).squeeze(-1) / temperature
        normaliser, entropy = torch.empty_like(picked), torch.empty_like(picked)
        for rows in _blocks(logits):
            normaliser[rows], entropy[rows] = _of_block(logits[rows], temperature, with_entropy)
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return picked - normaliser, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # Nothing that made the logits reads them again; a second pass would meet them changed, which autograd refuses.
        logits, targets, normaliser = ctx.saved_tensors
        scaled = gradients[0] / ctx.temperature  # [N]
        for rows in _blocks(logits):
            block = logits[rows]
            if ctx.temperature != 1:
                block.div_(ctx.temperature)
            block.sub_(normaliser[rows, None]).exp_().mul_(-scaled[rows, None])
        return logits.scatter_add_(-1, targets[:, None], scaled[:, None]), None, None, None


def _of_block(logits: Tensor, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | float]:
    """log Σ exp of each row, and its entropy; what it takes is gone before the next block is looked at."""
    tempered = logits if temperature == 1 else logits / temperature
    normaliser = tempered.logsumexp(-1)
    if not with_entropy:
        return normaliser, 0.0
    probabilities = (tempered - normaliser[:, None]).exp_()
    return normaliser, normaliser - probabilities.mul_(tempered).sum(-1)


def _blocks(logits: Tensor) -> Iterator[slice]:
    size = max(1, (VALUES_AT_ONCE if logits.device.type == "cpu" else ON_A_GPU) // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
