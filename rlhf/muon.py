"""Muon for the hidden matrices of a network, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum matrix M = U S Vᵀ by about U Vᵀ: all
directions of a matrix learn equally fast. At the size of the embedded model it needs roughly half the tokens of AdamW.
Differs from torch.optim.Muon: float32 throughout, and matrices of one shape are orthogonalised together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf.adamw import AdamW

MOMENTUM = 0.95
ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic iteration: every singular value ends between 0.7 and 1.2


class MuonAdamW(AdamW):
    """AdamW whose parameter groups with `muon: True` (matrices only) are updated by Muon."""

    param_groups: list[dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all groups; the momentum of Muon is the state `momentum`."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        super().step(closure)
        self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._muon(group)

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            direction = weight.grad.lerp(momentum, MOMENTUM)  # Nesterov
            wide = direction if direction.shape[0] <= direction.shape[1] else direction.T
            by_shape.setdefault(tuple(wide.shape), []).append((weight, wide))
        for members in by_shape.values():
            updates = orthogonalised(torch.stack([wide for _, wide in members]))
            for (weight, _), update in zip(members, updates, strict=True):
                step = update if weight.shape[0] <= weight.shape[1] else update.T
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"] * scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix [N, R, C], R ≤ C, by the Newton-Schulz iteration."""
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)  # (A + B·gram + C·gram²) x
    return x
