"""Muon for the hidden matrices of a network, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum matrix M = U S Vᵀ by about U Vᵀ: all
directions of a matrix learn equally fast. At the size of the embedded model it needs roughly half the tokens of AdamW.
Differs from torch.optim.Muon: float32 throughout, and two matrices are orthogonalised at a time (`rlhf.lanes`).
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from rlhf.adamw import AdamW
from rlhf.lanes import in_lanes, two_lanes

MOMENTUM = 0.95
ITERATIONS = 3  # not the usual 5: singular values far below the largest stay small, which learns as well here
A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic iteration, which takes values that are large enough to 0.7 to 1.2


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
        weights = [weight for weight in group["params"] if weight.grad is not None]
        for weight, update in zip(weights, in_lanes(self._direction, weights, two_lanes(weights)), strict=True):
            scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    @torch.no_grad()
    def _direction(self, weight: Tensor) -> Tensor:
        """Nesterov's momentum of one matrix, orthogonalised."""
        gradient = cast(Tensor, weight.grad)
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return orthogonalised(gradient.lerp(momentum, MOMENTUM))


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ [R, C], by the Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)  # (A + B·gram + C·gram²) x
    return x.T if tall else x
