"""What a training is, as a checkpoint: weights, moments, the caller's state, and whose they are."""

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.checkpoints import Checkpoint, Checkpoints
from rlhf.errors import PreflowError
from rlhf.optimizer import Copies, OptimizerSettings, follow

SHOWN = 4
"""Differences that a refusal names."""


def identity(
    name: str,
    seed: int,
    steps: int,
    optimizer: OptimizerSettings,
    weights: Mapping[str, Tensor],
    of: Mapping[str, str],
) -> dict[str, str]:
    """What two trainings must have in common for one to go on where the other was."""
    settings = {f"optimizer.{key}": value for key, value in asdict(optimizer).items()}
    shapes = {f"weight {key}": f"{list(weight.shape)} {weight.dtype}" for key, weight in weights.items()}
    known = {"name": name, "seed": seed, "steps": steps} | settings | dict(of) | shapes
    return {key: str(value) for key, value in known.items()}


def state_of(modules: Mapping[str, nn.Module], copies: Copies) -> dict[str, Tensor]:
    """Everything training may change, by name: trained parameters (tied ones once) or their copies, and buffers."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        trained = {key: tensor for key, tensor in module.named_parameters() if tensor.requires_grad}
        tensors |= {f"{name}.{key}": copies.get(tensor, tensor) for key, tensor in trained.items()}
        parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
        tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items() if key not in parameters}
    return tensors


def about_bytes(modules: Mapping[str, nn.Module], copies: Copies, optimizer: OptimizerSettings) -> int:
    """Size of a checkpoint before the optimiser has any moments: two of them a trained weight."""
    weights = state_of(modules, copies)
    moment = 4 if optimizer.kind == "adamw" else 1
    parameters = [weight for module in modules.values() for weight in module.parameters()]
    trained = sum(weight.numel() for weight in parameters if weight.requires_grad)
    return sum(weight.nbytes for weight in weights.values()) + 2 * moment * trained


def save(
    checkpoints: Checkpoints,
    step: int,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    state: Mapping[str, Any],
) -> None:
    """Write the checkpoint of `step`; the `state` must hold what `resume` reads of it."""
    weights = state_of(modules, copies)
    slots = {
        f"adamw:{slot}:{name}": value
        for name, weight in weights.items()
        for slot, value in adamw.state.get(weight, {}).items()
    }
    moments = {name: value for name, value in slots.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in slots.items() if name not in moments}
    # All weights share one table of 8-bit numbers, and safetensors refuses what lies in memory once.
    moments |= {name: value.clone() for name, value in moments.items() if ":qmap" in name}
    tensors = {f"weight:{name}": tensor for name, tensor in weights.items()} | moments
    checkpoints.save(step, tensors, {**state, "numbers": numbers})


def resume(
    checkpoints: Checkpoints,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    extra: MutableMapping[str, Any],
    own: Mapping[str, str],
) -> tuple[int, list[int]]:
    """Put the newest checkpoint back into place; the step to go on with and the steps skipped so far.

    Raises:
        PreflowError: it is of another training than `own`.
    """
    saved = checkpoints.newest()
    if saved is None:
        return 0, []
    _refuse_strangers(checkpoints, saved, own)
    for name, weight in state_of(modules, copies).items():
        with torch.no_grad():
            weight.copy_(saved.tensors[f"weight:{name}"])
        kept = {key: tensor.to(weight.device) for key, tensor in _slots(saved.tensors, name).items()}
        if kept:
            adamw.state[weight] = kept | _slots(saved.state["numbers"], name)
    follow(copies)
    extra.clear()
    extra.update(saved.state["extra"])
    return saved.step, list(saved.state["skipped"])


def _refuse_strangers(checkpoints: Checkpoints, saved: Checkpoint, own: Mapping[str, str]) -> None:
    other: Mapping[str, str] = saved.state["identity"]
    names = [name for name in sorted({*own, *other}) if own.get(name) != other.get(name)]
    if names:
        shown = "; ".join(f"{name}: there {other.get(name)}, here {own.get(name)}" for name in names[:SHOWN])
        more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise PreflowError(
            f"the checkpoint of step {saved.step} in {checkpoints.folder} is of another training ({shown}{more}): "
            "remove the folder to begin anew, or put back what was there before"
        )


def _slots(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the optimiser keeps of the weight `name`, by slot."""
    split = {tuple(key.split(":", 2)): value for key, value in values.items() if key.startswith("adamw:")}
    return {slot: value for (_, slot, of), value in split.items() if of == name}
