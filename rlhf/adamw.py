"""AdamW that leaves few holes in a processor's memory: a hole that the next step's tensors do not fit is never used.

1. The memory of both moments is taken before the first pass, beneath what passes take and give back. It is written to
   at the first update, and given back there where a weight has no gradient.
2. Of a large embedding a step has the gradient as the rows that it read (`as_rows`): the whole matrix, nearly all of it
   zero, is there in the update alone, when all other gradients have gone.

The numbers are those of torch's own, but for the order in which a gradient's length is summed up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LARGE = 2**22
"""Weights from which on an embedding's gradient is rows: 16 MB of float32."""


class AdamW(torch.optim.AdamW):
    """torch's, fused; gradients are used up by an update where one of them is rows."""

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        """Groups that are updated in another way say so with `muon`, and get no moments here."""
        super().__init__(groups, lr=0.0, fused=True, **settings)
        own = [weight for group in self.param_groups if not group.get("muon") for weight in group["params"]]
        self.reserved = {weight: _moments(weight) for weight in own if weight.device.type == "cpu"}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self._begin(weight for weight in weights if weight.grad is not None)
        rows = {weight: weight.grad for weight in weights if weight.grad is not None and weight.grad.is_sparse}
        for weight in rows:
            weight.grad = None
        super().step(closure)
        for weight in weights if rows else ():
            weight.grad = None
        for weight in list(rows):
            weight.grad = rows.pop(weight).to_dense()
            super().step()
            weight.grad = None

    def _begin(self, weights: Iterable[nn.Parameter]) -> None:
        """Moments of 0 for weights that have none yet, where their memory was reserved."""
        if not self.reserved:
            return
        for weight in weights:
            if weight in self.reserved and weight not in self.state:
                first, second = (moment.zero_() for moment in self.reserved[weight])
                step = torch.zeros((), dtype=torch.float32)
                self.state[weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        self.reserved.clear()


def _moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(weight)


def large_embeddings(modules: Mapping[str, nn.Module]) -> list[nn.Embedding]:
    """Those on a processor that are trained and that no LM head shares."""
    found: dict[nn.Parameter, list[nn.Module]] = {}
    for module in modules.values():
        for part in module.modules():
            for weight in part.parameters(recurse=False):
                found.setdefault(weight, []).append(part)
    alone = [parts[0] for weight, parts in found.items() if len(parts) == 1 and weight.numel() >= LARGE]
    trained = [part for part in alone if isinstance(part, nn.Embedding) and part.weight.requires_grad]
    # Where tensors lie, not where they say: those without data (`rlhf.ledger`) have no rows to tell apart.
    return [part for part in trained if part.weight.untyped_storage().device.type == "cpu"]


@contextmanager
def as_rows(embeddings: Sequence[nn.Embedding]) -> Iterator[None]:
    """Passes whose gradients of these are rows, each once."""
    before = [one.sparse for one in embeddings]
    for one in embeddings:
        one.sparse = True
    try:
        yield
    finally:
        for one, sparse in zip(embeddings, before, strict=True):
            one.sparse = sparse
    for weight in (one.weight for one in embeddings):
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
