"""Less memory for more time: activations that the backward pass computes again."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf.errors import PreflowError

_recomputed: "WeakKeyDictionary[nn.Module, Callable[[Callable[..., Any]], Callable[..., Any]]]" = WeakKeyDictionary()


def recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """What else computes a block, with its activations kept or computed again as those of the block itself."""
    how = _recomputed.get(block)
    return forward if how is None else how(forward)


def is_recomputed(block: nn.Module) -> bool:
    """Whether `recompute_blocks` has put another forward in the place of a block's own."""
    return block in _recomputed


def recompute_blocks(model: nn.Module, contexts: Callable[[], tuple[Any, Any]] | None = None) -> None:
    """Keep no activations within the blocks of `model`: the backward pass computes them again (1604.06174).

    `contexts` gives what to enter around a block the first time and the second. Raises PreflowError where transformers
    marks no block of the model as one that can be recomputed.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    if not blocks:
        raise PreflowError(
            f"{type(model).__name__} has 0 blocks that transformers can recompute: set training.gradient_checkpointing "
            "to false"
        )
    further = {} if contexts is None else {"context_fn": contexts}

    def again(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, **further, **kwargs)

        return run

    for block in blocks:
        block.forward = again(block.forward)  # type: ignore[method-assign]
        _recomputed[block] = again
