"""AdamW with its schedule and its clipping, for one or several modules trained together.

Weights in half precision have float32 copies, which AdamW moves and they follow: bfloat16 has 8 bits of fraction, and
a step of less than 1/512 of a weight would be lost. So the state of such a weight is its copy. Of a weight that several
processes divide (`rlhf.sharding`), AdamW has this process's share.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf.adamw import AdamW, large_embeddings
from rlhf.bits import bitsandbytes
from rlhf.muon import MuonAdamW
from rlhf.sharding import divided, share_of, total_norm


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, its schedule and its limits."""

    lr: float | Mapping[str, float]
    """Peak learning rate, one for all modules or one for each by name."""
    warmup_steps: int = 0
    """Steps of linear rise to the peak."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warmup."""
    final_lr_fraction: float = 0.0
    """Share of the peak that is reached at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-5
    """Larger than PyTorch's 1e-8: early steps are then as small as in the original RLHF code."""
    weight_decay: float = 0.0
    """Applied to matrices, not to biases and norms."""
    matrix_lr: float | None = None
    """Peak learning rate of Muon on the hidden matrices; None leaves them to AdamW too."""
    max_grad_norm: float = 1.0
    """Each module's gradient is scaled down to this length."""
    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    """With 8 bits a moment, scaled by blocks of 256 (Dettmers et al., 2110.02861); small tensors keep 32."""
    shard: bool = False
    """Where there are several processes, each keeps a share of weights, gradients and moments (`rlhf.sharding`)."""


def lr_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Share of the peak learning rate at `step` (from 0): (step+1)/warmup while it rises, then the schedule's fall.

    The fall ends at the last step, with `final_lr_fraction`.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps - 1)
    falls = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    floor = 1.0 if settings.schedule == "constant" else settings.final_lr_fraction
    return floor + (1.0 - floor) * falls[settings.schedule]


Copies = Mapping[nn.Parameter, nn.Parameter]
"""From a weight in half precision, or one that is divided, to the float32 copy of what this process has of it."""


def float32_copies(modules: Mapping[str, nn.Module]) -> Copies:
    """Copies of the trained weights that need one; none where all are float32 and whole."""
    trained = {weight: None for module in modules.values() for weight in module.parameters() if weight.requires_grad}
    own = [weight for weight in trained if weight.dtype in (torch.bfloat16, torch.float16) or divided(weight)]
    return {weight: nn.Parameter(share_of(weight).float()) for weight in own}


def step(optimizer: torch.optim.Optimizer, copies: Copies) -> None:
    """One update; weights that have copies take what becomes of these."""
    for weight, copy in copies.items():
        copy.grad = None if weight.grad is None else share_of(weight.grad).float()
    optimizer.step()
    follow(copies)


@torch.no_grad()
def follow(copies: Copies) -> None:
    """Round the copies to the weights."""
    for weight, copy in copies.items():
        share_of(weight).copy_(copy)


def adamw(
    modules: Mapping[str, nn.Module], settings: OptimizerSettings, copies: Copies | None = None
) -> torch.optim.Optimizer:
    """AdamW over the trained parameters of all modules; each group names its `module` and that one's `peak` lr.

    With `matrix_lr` the weights of linear layers, those tied to embeddings excepted, are in groups that Muon updates.
    Weights that have one of `copies` are represented by it. Raises ValueError for Muon with 8 bits, or with shares.
    """
    if settings.matrix_lr and settings.kind != "adamw":
        raise ValueError(f"matrix_lr is {settings.matrix_lr} with {settings.kind}, expected adamw: Muon has no 8 bits")
    if settings.matrix_lr and settings.shard:
        raise ValueError(f"matrix_lr is {settings.matrix_lr} with shard: Muon needs whole matrices")
    groups: list[dict[str, Any]] = []
    for name, module in modules.items():
        peak = settings.lr[name] if isinstance(settings.lr, Mapping) else settings.lr
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        hidden = _hidden_matrices(module) if settings.matrix_lr else set()
        matrices = [parameter for parameter in trained if parameter.dim() >= 2 and id(parameter) not in hidden]
        others = [parameter for parameter in trained if parameter.dim() < 2]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "module": name, "peak": peak})
        groups.append({"params": others, "weight_decay": 0.0, "module": name, "peak": peak})
        if hidden:
            inner = [parameter for parameter in trained if id(parameter) in hidden]
            own = {"peak": settings.matrix_lr, "muon": True, "module": f"{name}_matrices"}
            groups.append({"params": inner, "weight_decay": settings.weight_decay} | own)
    groups = [group for group in groups if group["params"]]
    if copies:
        groups = [group | {"params": [copies.get(one, one) for one in group["params"]]} for group in groups]
    if settings.kind == "adamw_8bit":
        in_8_bits: torch.optim.Optimizer = bitsandbytes().optim.AdamW8bit(
            groups, lr=0.0, betas=settings.betas, eps=settings.eps
        )
        return in_8_bits
    kind = MuonAdamW if settings.matrix_lr else AdamW
    return kind(groups, betas=settings.betas, eps=settings.eps)


def in_rows(modules: Mapping[str, nn.Module], settings: OptimizerSettings, copies: Copies) -> list[nn.Embedding]:
    """Embeddings whose gradient may be rows (`rlhf.adamw.as_rows`), if this process trains alone."""
    found = large_embeddings(modules) if settings.kind == "adamw" else []
    return [one for one in found if one.weight not in copies]


def _hidden_matrices(module: nn.Module) -> set[int]:
    """Ids of the weights of linear layers that no embedding shares."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear)} - embeddings


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set every group to its peak times `factor`; the learning rate of each module."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        rates[group["module"]] = group["lr"]
    return rates


def clip(module: nn.Module, limit: float) -> float:
    """Scale the module's gradient to a length of at most `limit`; its length before."""
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = total_norm([_values(parameter.grad) for parameter in trained])
    length: float = norm.item()
    if length > limit:  # else all would be multiplied by 1, a pass over memory for nothing
        torch.nn.utils.clip_grads_with_norm_([one for one in trained if not divided(one)], limit, norm)
        for one in filter(divided, trained):
            share_of(one.grad).mul_(limit / (norm + 1e-6))
    return length


def _values(gradient: Tensor) -> Tensor:
    """Of one that is rows (`rlhf.adamw.as_rows`) these alone."""
    return gradient.values() if gradient.is_sparse else gradient
