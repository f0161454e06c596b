"""The one optimiser loop: accumulate, clip, schedule, guard, checkpoint, resume. Every trainer calls `fit`.

What differs between supervised, reward, preference and reinforcement training is handed in as two functions:
`batch_at`, which makes the work of a step, and `loss`, which makes a sum of losses of one micro-batch. The sums of a
step are divided by ONE denominator of the whole step, so that the result does not depend on how the step was cut.
Training ends after `steps`, or earlier where `batch_at` has no more work.

Resuming is calling `fit` again with the same arguments. All randomness is derived from (seed, step), so weights,
optimiser moments, the step and the caller's `extra` are the whole state, and a run that was killed ends in the same
bytes as one that was not.
"""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rlhf.checkpoints import Checkpoints
from rlhf.errors import NumericsError
from rlhf.optimizer import Copies, OptimizerSettings, clip, float32_copies, follow, lr_factor, set_lr
from rlhf.optimizer import adamw as make_adamw
from rlhf.optimizer import step as update
from rlhf.seeding import derive
from rlhf.spending import spent

M = TypeVar("M")
Metrics = dict[str, Tensor]
"""Name to 1-D values, one an item (sequence or token); averaged, or the maximum where the name ends in `_max`."""

NONFINITE_WINDOW, NONFINITE_LIMIT = 20, 3
"""Training stops where this many of the last so many steps had a loss or gradient that was not finite."""


@dataclass(frozen=True)
class StepBatch(Generic[M]):
    """The work of one optimiser step."""

    micro_batches: Sequence[M]
    """Whatever `loss` understands; each is one forward and backward pass. With none the weights stay as they are."""
    denominator: float
    """What the losses of all micro-batches together are divided by: the step's sequences, tokens or pairs."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of the whole step that are known beforehand (rewards of its rollouts, …), logged as they are."""


@dataclass(frozen=True)
class FitResult:
    """How a run went."""

    steps: int
    """Optimiser steps done in all, before and after resuming."""
    resumed_from: int
    """The step it went on from; 0 for a fresh start."""
    nonfinite: int
    """Updates that were skipped because loss or gradient was not finite."""
    metrics: dict[str, float]
    """Last step's averages, without the stage prefix; empty where nothing was left to do."""


class Progress(Protocol):
    """How far a run is, for the terminal."""

    def __call__(self, done: int, total: int, **figures: float) -> None: ...


@spent("train")
def fit(
    modules: Mapping[str, nn.Module],
    *,
    steps: int,
    batch_at: Callable[[int], StepBatch[M] | None],
    loss: Callable[[M], tuple[Tensor, Metrics]],
    optimizer: OptimizerSettings,
    seed: int,
    name: str,
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Progress | None = None,
    extra: MutableMapping[str, Any] | None = None,
) -> FitResult:
    """Train `modules` for at most `steps` optimiser steps, going on from the newest valid checkpoint if there is one.

    Args:
        modules: what is trained, by name; parameters without `requires_grad` stay as they are, and so does the mode:
            policies are loaded in evaluation mode, so that trainer and sampler agree (no dropout).
        batch_at: the work of step 0 … steps−1; may sample from the modules. Called once a step, in order. None ends the
            training before that step; whether it does must depend on the step, the modules and `extra` alone, so that
            a run that was killed ends there too.
        loss: SUM of the losses of a micro-batch (a scalar with a graph) and its per-item metrics (detached).
        seed: with the step's number it seeds torch before `batch_at`, for dropout and the like.
        name: prefix of the logged metrics, e.g. "sft" for "sft/loss".
        log: called with the averages over each whole step; always has loss, lr, grad_norm and nonfinite.
        extra: the caller's own state, JSON only (an adaptive KL coefficient, …); saved, and restored in place.

    Raises:
        NumericsError: too many steps were not finite; the last checkpoint is intact.
    """
    extra = {} if extra is None else extra
    copies = float32_copies(modules)
    adamw = make_adamw(modules, optimizer, copies)
    start, skipped = _resume(checkpoints, modules, adamw, copies, extra)
    averages: dict[str, float] = {}
    done = start
    for step in range(start, steps):
        torch.manual_seed(derive(seed, name, "step", step))
        batch = batch_at(step)
        if batch is None:
            break
        averages = _accumulate(batch, loss)
        norms = {key: clip(module, optimizer.max_grad_norm) for key, module in modules.items()}
        rates = set_lr(adamw, lr_factor(step, steps, optimizer))
        if all(map(math.isfinite, [averages["loss"], *norms.values()])):
            update(adamw, copies)
        else:
            skipped.append(step)
            _guard(skipped, step, averages["loss"], norms, checkpoints)
        for trained in (adamw, *modules.values()):
            trained.zero_grad(set_to_none=True)
        averages |= {**batch.metrics, "nonfinite": float(len(skipped))}
        averages |= _per_module("lr", rates) | _per_module("grad_norm", norms)
        if log:
            log({f"{name}/{key}": value for key, value in averages.items()}, step)
        if progress:
            progress(step + 1, steps, loss=averages["loss"])
        if checkpoints and ((step + 1) % checkpoints.every == 0 or step + 1 == steps):
            _save(checkpoints, step + 1, modules, adamw, copies, {"extra": dict(extra), "skipped": skipped})
        done = step + 1
    return FitResult(steps=done, resumed_from=start, nonfinite=len(skipped), metrics=averages)


def _accumulate(batch: StepBatch[M], loss: Callable[[M], tuple[Tensor, Metrics]]) -> dict[str, float]:
    """Gradients of the whole step into `.grad`; its loss and metrics, averaged over all items."""
    if not batch.denominator > 0:
        raise ValueError(f"the step's denominator is {batch.denominator}: expected the number of items, above 0")
    total = 0.0
    collected: dict[str, list[Tensor]] = {}
    for micro_batch in batch.micro_batches:
        summed, metrics = loss(micro_batch)
        share = summed / batch.denominator
        share.backward()
        total += share.item()
        for key, values in metrics.items():
            collected.setdefault(key, []).append(values)
    averages = {"loss": total}
    for key, parts in collected.items():
        values = torch.cat(parts)
        if values.numel():
            averages[key] = (values.max() if key.endswith("_max") else values.float().mean()).item()
    return averages


def _guard(
    skipped: list[int], step: int, loss: float, norms: Mapping[str, float], checkpoints: Checkpoints | None
) -> None:
    recent = [earlier for earlier in skipped if earlier > step - NONFINITE_WINDOW]
    if len(recent) < NONFINITE_LIMIT:
        return
    kept = f"checkpoints up to step {step} are kept in {checkpoints.folder}; " if checkpoints else ""
    raise NumericsError(
        f"{len(recent)} of the last {NONFINITE_WINDOW} steps were not finite (steps {recent}; now loss {loss}, "
        f"gradient norms {dict(norms)}; limit {NONFINITE_LIMIT - 1}): {kept}lower `lr`, or look at these steps' data"
    )


def _per_module(key: str, values: Mapping[str, float]) -> dict[str, float]:
    """The first module's value under the plain name, the others' with the module's name behind it."""
    first, *others = values
    return {key: values[first]} | {f"{key}_{name}": values[name] for name in others}


def _state_of(modules: Mapping[str, nn.Module], copies: Copies) -> dict[str, Tensor]:
    """Everything training may change, by name: trained parameters (tied ones once) or their copies, and buffers."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        trained = {key: tensor for key, tensor in module.named_parameters() if tensor.requires_grad}
        tensors |= {f"{name}.{key}": copies.get(tensor, tensor) for key, tensor in trained.items()}
        parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
        tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items() if key not in parameters}
    return tensors


def _save(
    checkpoints: Checkpoints,
    step: int,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    state: Mapping[str, Any],
) -> None:
    weights = _state_of(modules, copies)
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


def _resume(
    checkpoints: Checkpoints | None,
    modules: Mapping[str, nn.Module],
    adamw: torch.optim.Optimizer,
    copies: Copies,
    extra: MutableMapping[str, Any],
) -> tuple[int, list[int]]:
    """Put the newest checkpoint back into place; the step to go on with and the steps skipped so far."""
    saved = checkpoints.newest() if checkpoints else None
    if saved is None:
        return 0, []
    for name, weight in _state_of(modules, copies).items():
        with torch.no_grad():
            weight.copy_(saved.tensors[f"weight:{name}"])
        kept = {key: tensor.to(weight.device) for key, tensor in _slots(saved.tensors, name).items()}
        if kept:
            adamw.state[weight] = kept | _slots(saved.state["numbers"], name)
    follow(copies)
    extra.clear()
    extra.update(saved.state["extra"])
    return saved.step, list(saved.state["skipped"])


def _slots(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the optimiser keeps of the weight `name`, by slot."""
    split = {tuple(key.split(":", 2)): value for key, value in values.items() if key.startswith("adamw:")}
    return {slot: value for (_, slot, of), value in split.items() if of == name}
