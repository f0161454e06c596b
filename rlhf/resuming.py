"""What a training is, as a checkpoint: weights, moments, the caller's state, and whose they are.

Of several processes that train together (`rlhf.distributed`) the first one writes it, and reads it for all.
"""

import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf import distributed, shards
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
    """What two trainings must have in common for one to go on where the other was.

    Data and loss come as functions, of which nobody can tell whether they are the same: it is for the caller to say of
    what they are made, by digests in `of`. Stages say so for all code, settings, inputs and versions (`made_of.json`).
    """
    settings = {f"optimizer.{key}": value for key, value in asdict(optimizer).items()}
    shapes = {f"weight {key}": f"{list(weight.shape)} {weight.dtype}" for key, weight in weights.items()}
    known = {**of, "name": name, "seed": seed, "steps": steps} | settings | shapes
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


def about_bytes(modules: Mapping[str, nn.Module], copies: Copies, optimizer: OptimizerSettings) -> tuple[int, int]:
    """Size of a checkpoint before the optimiser has any moments, two of them a trained weight; and of its weights."""
    weights = sum(weight.nbytes for weight in state_of(modules, copies).values())
    moment = 4 if optimizer.kind == "adamw" else 1
    parameters = [weight for module in modules.values() for weight in module.parameters()]
    trained = sum(weight.numel() for weight in parameters if weight.requires_grad)
    return weights + 2 * moment * trained, weights


def save(
    checkpoints: Checkpoints,
    step: int,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    state: Mapping[str, Any],
) -> None:
    """Write the checkpoint of `step`; the `state` must hold what `resume` reads of it."""
    group, weights = distributed.group(), state_of(modules, copies)
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
    shares = shards.divided(modules, tensors)
    if group.rank > 0:
        shards.save_beside(group, shares)
    else:
        further = shards.gathered(group, shares)
        checkpoints.save(step, tensors, {**state, "numbers": numbers}, further)


def resume(
    checkpoints: Checkpoints,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    extra: MutableMapping[str, Any],
    own: Mapping[str, str],
) -> tuple[int, list[int], list[int]]:
    """Put the newest checkpoint back into place.

    Returns:
        The step to go on with, the steps skipped so far, and of how many processes this training was: one number where
        it was always as many. Sums over other shares are rounded otherwise, so else it is said that bytes may differ.

    Raises:
        PreflowError: it is of another training than `own`.
    """
    group = distributed.group()
    saved = _for_all(group, checkpoints)
    if saved is None:
        return 0, [], [group.size]
    _refuse_strangers(checkpoints, saved, group.told(lambda: dict(own)))  # only the first knows all of it
    tensors = shards.Joined(saved, modules, group)
    for name, weight in state_of(modules, copies).items():
        with torch.no_grad():
            weight.copy_(tensors[f"weight:{name}"])
        kept = {key: tensor.to(weight.device) for key, tensor in _slots(tensors, name).items()}
        if kept:
            adamw.state[weight] = kept | _slots(saved.state["numbers"], name)
    follow(copies)
    extra.clear()
    extra.update(saved.state["extra"])
    sizes: list[int] = list(saved.state["sizes"])
    if sizes[-1] != group.size:
        sizes.append(group.size)
    if len(sizes) > 1:
        changes = " → ".join(map(str, sizes))
        print(f"resharded ({changes} processes): not bitwise what {sizes[0]} alone give", file=sys.stderr, flush=True)
    return saved.step, list(saved.state["skipped"]), sizes


def _for_all(group: distributed.Group, checkpoints: Checkpoints) -> Checkpoint | None:
    """The newest checkpoint, which only the first process reads."""
    saved = checkpoints.newest() if group.rank == 0 else None

    def about() -> dict[str, Any] | None:
        if saved is None:
            return None
        kinds = {name: (list(one.shape), str(one.dtype).removeprefix("torch.")) for name, one in saved.tensors.items()}
        return {"step": saved.step, "state": saved.state, "kinds": kinds, "folder": str(saved.folder)}

    told = group.told(about)
    if told is None or group.size == 1:
        return saved
    tensors = {name: torch.empty(shape, dtype=getattr(torch, of)) for name, (shape, of) in told["kinds"].items()}
    tensors |= saved.tensors if saved else {}
    for tensor in tensors.values():
        group.copy_first(tensor)
    return Checkpoint(told["step"], tensors, told["state"], Path(told["folder"]))


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
    keys = {tuple(key.split(":", 2)): key for key in values if key.startswith("adamw:")}
    return {slot: values[key] for (_, slot, of), key in keys.items() if of == name}
