"""FSDP2: of a model's blocks, every process keeps a share of the weights, their gradients and their moments.

torch's `fully_shard` puts the weights of a block together where it is computed and lets them go again, and adds the
gradients up to each one's share (Zhao et al., "PyTorch FSDP", 2304.11277). What is outside of the blocks, which is
embeddings, LM head, last norm and heads, every process keeps whole: the decoder and the LM head are called one by one
here, and the two may share a matrix. With adapters the frozen base is divided, and every adapter within its blocks.

Passes that do not train need weights, but no gradients: for these the weights are put together beforehand (`whole`), as
processes do different numbers of such passes, and would wait for each other. So is what is left after a training.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rlhf import distributed
from rlhf.errors import PreflowError

_blocks: "WeakKeyDictionary[nn.Module, list[Any]]" = WeakKeyDictionary()
"""Of each module that was sharded."""


def shard(modules: Iterable[nn.Module]) -> None:
    """Divide the blocks of every language model among the modules; of what has none, nothing.

    Adapters that a base gets after it was divided are whole on every process.

    Raises PreflowError where transformers marks no block of a model as one.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from rlhf.models import packing

    group = distributed.group()
    mesh = init_device_mesh(group.device.type, (group.size,))
    modules = list(modules)
    for module in modules:
        view = next((part for part in module.modules() if hasattr(part, "get_decoder")), None)
        if view is None:
            continue
        model = _whole_model(view)
        if model in _blocks:  # put together after an earlier training, or shared with another module
            _blocks[module] = _blocks[view] = _blocks[model]
            continue
        packing.able(view, 1)  # tried by forward passes, which afterwards one process alone must not make
        blocks = _blocks_of(model)
        inside = {weight for block in blocks for weight in block.parameters()}
        how: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
        for block in blocks:
            fully_shard(block, **how)
            block.set_gradient_divide_factor(1.0)  # losses have their denominator: sums, not means
            block.set_force_sum_reduction_for_comms(True)
        fully_shard(model.get_decoder(), ignored_params=set(model.parameters()) - inside, **how)
        _blocks[module] = _blocks[view] = _blocks[model] = blocks
    _divide_again(modules)


def _whole_model(model: Any) -> Any:
    """The model of transformers: of one with adapters their base."""
    from rlhf.models.adapted import Adapted

    return model.base.model if isinstance(model, Adapted) else model


def _blocks_of(model: Any) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks:
        raise PreflowError(f"{type(model).__name__} has 0 blocks that can be divided: set training.shard to false")
    return blocks


@contextmanager
def whole(modules: Iterable[nn.Module]) -> Iterator[None]:
    """With the weights of all blocks put together, for passes without gradient. All processes must come here."""
    modules = list(modules)
    put_together(modules)
    try:
        yield
    finally:
        _divide_again(modules)


def put_together(modules: Iterable[nn.Module]) -> None:
    """Every process has the weights of all blocks from now on."""
    modules = list(modules)
    for block in _all_blocks(modules):
        block.set_reshard_after_forward(False)
        block.unshard()
    _look_again(modules)


def _divide_again(modules: Iterable[nn.Module]) -> None:
    modules = list(modules)
    for block in _all_blocks(modules):
        block.reshard()
        block.set_reshard_after_forward(True)
    _look_again(modules)


def _all_blocks(modules: Iterable[nn.Module]) -> Iterable[Any]:
    """Those of all modules, each once: models with adapters share a base."""
    return dict.fromkeys(block for module in modules for block in _blocks.get(module, ()))


def _look_again(modules: Iterable[nn.Module]) -> None:
    """Have models with adapters take the weights that these have now."""
    for module in modules:
        for part in module.modules() if module in _blocks else ():
            if hasattr(part, "look_again"):
                part.look_again()


def divided(tensor: Tensor) -> bool:
    """Whether each process has a share of it."""
    return hasattr(tensor, "to_local")


def share_of(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in the same memory; all of it where it is not divided."""
    local: Tensor = tensor.to_local() if divided(tensor) else tensor  # type: ignore[operator]
    return local.detach()


def tensors_of(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict of a model whose weights are put together; asking for it would have them divided again."""
    if model not in _blocks:
        found: Mapping[str, Tensor] = model.state_dict()
        return found
    lasting = {
        f"{path}.{name}".lstrip("."): tensor
        for path, part in model.named_modules()
        for name, tensor in part.named_buffers(recurse=False)
        if name not in part._non_persistent_buffers_set
    }
    return dict(model.named_parameters(remove_duplicate=False)) | lasting


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Length of all tensors together, those that are divided counted once."""
    given = list(tensors)
    norm: Tensor = torch.nn.utils.get_total_norm([one for one in given if not divided(one)])
    shares = [share_of(one) for one in given if divided(one)]
    if not shares:
        return norm
    squared = torch.nn.utils.get_total_norm(shares).square()
    distributed.group().add_up([squared])
    return (norm.square() + squared).sqrt()
