"""Log-probabilities and entropies of chosen tokens from logits, with one copy of the logits in memory.

The usual way keeps logits, their exponentials and a gradient, each [N, V]. Here all is computed a few rows at a time,
while these are in the processor's cache, and the backward pass writes the gradient where the logits were.

Shapes: N tokens, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

VALUES_AT_ONCE = 2**18
"""Logits that are worked on at a time: a megabyte of float32, about a core's cache."""


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
        normaliser, entropy = torch.empty_like(picked), torch.zeros_like(picked)
        for rows in _blocks(logits):
            block = logits[rows] if temperature == 1 else logits[rows] / temperature
            normaliser[rows] = block.logsumexp(-1)
            if with_entropy:
                probabilities = (block - normaliser[rows, None]).exp_()
                entropy[rows] = normaliser[rows] - probabilities.mul_(block).sum(-1)
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


def _blocks(logits: Tensor) -> Iterator[slice]:
    size = max(1, VALUES_AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    return (slice(start, start + size) for start in range(0, len(logits), max(1, size)))
