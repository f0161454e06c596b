"""RMS norms in few passes over memory: those of transformers take a quarter of a small model's training on a processor.

    y = w · x / √(mean(x²) + ε)        (Zhang and Sennrich, "Root Mean Square Layer Normalization", 1910.07467)

Their backward pass is put together by autograd from eight operations, each of which reads and writes all activations.

Shapes: N tokens, H hidden.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AGREES = 1e-5
"""Largest difference to the model's own norm on a probe, relative to its largest value."""


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(values, weight, eps)
        ctx.save_for_backward(values, weight, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        values, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        normed = values * scale  # n
        shares = gradient * normed
        along = (shares @ weight).unsqueeze(-1).div_(values.shape[-1])  # mean(g·w·n), [N, 1]
        to_values = (gradient * weight).addcmul_(normed, along, value=-1).mul_(scale)  # (g·w − n · along) · scale
        return to_values, shares.reshape(-1, len(weight)).sum(0) if ctx.needs_input_grad[1] else None, None


def _normed(values: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and what values were scaled by [N, 1]."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    scale = length.square_().div_(values.shape[-1]).add_(eps).rsqrt_()
    return (values * scale).mul_(weight), scale


def rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """values [..., H] scaled to a mean square of 1, times weight [H]."""
    if not torch.is_grad_enabled():  # a sampler calls it for every token: no node of a graph is made for nothing
        return _normed(values, weight, eps)[0]
    normed: Tensor = _Norm.apply(values, weight, eps)  # type: ignore[no-untyped-call]
    return normed


def fuse_norms(model: nn.Module) -> None:
    """Have the model's RMS norms compute so where they are float32 on a processor, and as they did everywhere else.

    A norm that is another function, as Gemma's 1 + w, is found by trying it and left alone.
    """
    for part in model.modules():
        if type(part).__name__.endswith("RMSNorm") and _agrees(part):
            kind: Any = type(part)
            part.__class__ = _fused(kind)


@cache
def _fused(kind: Any) -> type[nn.Module]:
    """A class of norms like `kind` but for how it computes: copies and saved models are as of `kind`."""

    def forward(self: Any, values: Tensor) -> Tensor:
        if values.dtype == self.weight.dtype == torch.float32 and values.device.type == "cpu":
            return rms_norm(values, self.weight, _eps(self))
        original: Tensor = kind.forward(self, values)
        return original

    return type(kind.__name__, (kind,), {"forward": forward})


def _eps(norm: nn.Module) -> Any:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


@torch.no_grad()
def _agrees(norm: nn.Module) -> bool:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or weight.device.type != "cpu":
        return False
    if not isinstance(_eps(norm), float) or len(inspect.signature(norm.forward).parameters) != 1:
        return False
    limit = AGREES if weight.dtype == torch.float32 else 2.0**-6
    for size in (1.0, 1e-3, 0.0):  # small values too, where ε counts
        probe = size * torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype).view(2, -1)
        own, ours = norm(probe).float(), rms_norm(probe.float(), weight.float(), _eps(norm))
        if not bool((own - ours).abs().max() <= limit * own.abs().max()):
            return False
    return True
