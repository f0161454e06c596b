"""The one optimiser loop: accumulate, clip, schedule, guard, checkpoint, resume. Every trainer calls `fit`.

What differs between supervised, reward, preference and reinforcement training is handed in as two functions:
`batch_at`, which makes the work of a step, and `loss`, which makes a sum of losses of one micro-batch. The sums of a
step are divided by ONE denominator of the whole step, so that the result does not depend on how the step was cut.
Training ends after `steps`, or earlier where `batch_at` has no more work.

Resuming is calling `fit` again with the same arguments; with others it is refused, as far as they can be compared
(`rlhf.resuming.identity` says which can, and what of data and loss is for the caller to say). All randomness is derived
from (seed, step), so weights, optimiser moments, the step and the caller's `extra` are the whole state, and a run that
was killed ends in the same bytes as one that was not.

Several processes that were started as one training (`rlhf.distributed`) divide the micro-batches of every step. What is
logged is of all of them, and the first one writes the checkpoints.
"""

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rlhf import distributed, resuming, sharding
from rlhf.adamw import as_rows
from rlhf.checkpoints import Checkpoints
from rlhf.incidents import incident
from rlhf.interruption import STOP
from rlhf.lanes import in_lanes, two_lanes
from rlhf.manifests import made_of
from rlhf.optimizer import OptimizerSettings, clip, float32_copies, in_rows, lr_factor, set_lr
from rlhf.optimizer import adamw as make_adamw
from rlhf.optimizer import step as update
from rlhf.seeding import derive
from rlhf.spending import spent

M = TypeVar("M")
Metrics = dict[str, Tensor]
"""Name to 1-D values, one an item (sequence or token); averaged, or the maximum where the name ends in `_max`."""


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
@STOP.after_the_step()
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
    at_once: Sequence[Tensor] = (),
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
        at_once: all that is trained, where two micro-batches may go through the modules at once if these are small:
            without adapters and dropout, no two weights with one and the same gradient, a `loss` that changes nothing.

    Raises:
        NumericsError: too many steps were not finite; the last checkpoint is intact.
        Preempted: this process was asked to stop; what is done is saved (see `rlhf.interruption`).
        PreflowError: checkpoints cannot be written, or the newest one is of another training.
    """
    extra = {} if extra is None else extra
    group = distributed.group()
    divided = optimizer.shard and group.size > 1
    if divided:
        sharding.shard(modules.values())
    copies = float32_copies(modules)
    adamw = make_adamw(modules, optimizer, copies)
    embeddings = in_rows(modules, optimizer, copies) if group.size == 1 else []
    in_two = at_once if two_lanes(at_once) else ()
    start, skipped, sizes, own = 0, list[int](), [group.size], dict[str, str]()
    if checkpoints:
        of = made_of(checkpoints.folder) | dict(checkpoints.of)
        own = resuming.identity(name, seed, steps, optimizer, resuming.state_of(modules, {}), of)
        start, skipped, sizes = resuming.resume(checkpoints, modules, adamw, copies, extra, own)
        if start < steps and group.rank == 0:
            size, output = resuming.about_bytes(modules, copies, optimizer)
            checkpoints.prepare(size, math.ceil((steps - start) / checkpoints.every), output)
    if log and start:  # an attempt before has told of steps up to its end, which may be later
        log({f"{name}/resumed_from": float(start)}, start)
    if log and len(sizes) > 1:
        log({f"{name}/resharded": float(len(sizes) - 1)}, start)
    averages: dict[str, float] = {}
    done = start
    for step in range(start, steps):
        torch.manual_seed(derive(seed, name, "step", step))
        with sharding.whole(modules.values()):
            batch = batch_at(step)
        if batch is None:
            break
        if group.rank > 0:  # dropout of its own; the first goes on with the numbers that a process alone has
            torch.manual_seed(derive(seed, name, "step", step, group.rank))
        with as_rows(embeddings):
            averages = _accumulate(batch, loss, divided, in_two)
        group.add_up_gradients(modules.values())
        norms = {key: clip(module, optimizer.max_grad_norm) for key, module in modules.items()}
        rates = set_lr(adamw, lr_factor(step, steps, optimizer))
        if all(map(math.isfinite, [averages["loss"], *norms.values()])):
            update(adamw, copies)
        else:
            skipped.append(step)
            folder = checkpoints.folder if checkpoints else None
            incident(name, skipped, averages["loss"], norms, batch.micro_batches, folder)
        for trained in (adamw, *modules.values()):
            trained.zero_grad(set_to_none=True)
        averages |= {**batch.metrics, "nonfinite": float(len(skipped))}
        averages |= _per_module("lr", rates) | _per_module("grad_norm", norms)
        if log:
            log({f"{name}/{key}": value for key, value in averages.items()}, step)
        if progress:
            progress(step + 1, steps, loss=averages["loss"])
        done = step + 1
        stops = group.any(bool(STOP.asked)) and (checkpoints is None or done % checkpoints.unit == 0)
        if checkpoints and (done % checkpoints.every == 0 or done == steps or stops):
            state = {"extra": dict(extra), "skipped": skipped, "identity": own, "sizes": sizes}
            resuming.save(checkpoints, done, modules, adamw, copies, state)
        if stops:
            raise STOP.error(f"step {done} of {steps} is {'saved' if checkpoints else 'not saved'}")
    sharding.put_together(modules.values())
    return FitResult(steps=done, resumed_from=start, nonfinite=len(skipped), metrics=averages)


def _accumulate(
    batch: StepBatch[M], loss: Callable[[M], tuple[Tensor, Metrics]], divided: bool, at_once: Sequence[Tensor]
) -> dict[str, float]:
    """Gradients of this process's share of the step into `.grad`; loss and metrics of all, averaged over all items."""
    if not batch.denominator > 0:
        raise ValueError(f"the step's denominator is {batch.denominator}: expected the number of items, above 0")
    total = 0.0
    collected: dict[str, list[Tensor]] = {}
    lanes = at_once and len(batch.micro_batches) > 1
    for share, metrics in _in_lanes(batch, loss, at_once) if lanes else _in_turn(batch, loss, divided):
        total += share
        for key, values in metrics.items():
            collected.setdefault(key, []).append(values)
    averages: dict[str, float] = {}
    counts: dict[str, int] = {}
    for key, parts in collected.items():
        values = torch.cat(parts)
        if values.numel():
            averages[key] = (values.max() if key.endswith("_max") else values.float().mean()).item()
            counts[key] = values.numel()
    return distributed.group().averages(total, averages, counts)


def _share(batch: StepBatch[M], loss: Callable[[M], tuple[Tensor, Metrics]], micro_batch: M) -> tuple[Tensor, Metrics]:
    summed, metrics = loss(micro_batch)
    return summed / batch.denominator, metrics


def _in_turn(
    batch: StepBatch[M], loss: Callable[[M], tuple[Tensor, Metrics]], divided: bool
) -> Iterator[tuple[float, Metrics]]:
    """Loss and metrics of this process's micro-batches; their gradients are added up in `.grad`."""
    for micro_batch, counted in distributed.group().passes(batch.micro_batches, divided):
        share, metrics = _share(batch, loss, micro_batch)
        if not counted:
            (share * 0.0).backward()
            continue
        share.backward()
        yield share.item(), metrics


def _in_lanes(
    batch: StepBatch[M], loss: Callable[[M], tuple[Tensor, Metrics]], weights: Sequence[Tensor]
) -> Iterator[tuple[float, Metrics]]:
    """As `_in_turn`, and the same bytes: gradients are added up in the order of the micro-batches."""

    def passed(micro_batch: M) -> tuple[float, Metrics, Sequence[Tensor | None]]:
        share, metrics = _share(batch, loss, micro_batch)
        return share.item(), metrics, torch.autograd.grad(share, weights, allow_unused=True)

    for share, metrics, gradients in in_lanes(passed, batch.micro_batches, True):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        yield share, metrics


def _per_module(key: str, values: Mapping[str, float]) -> dict[str, float]:
    """The first module's value under the plain name, the others' with the module's name behind it."""
    first, *others = values
    return {key: values[first]} | {f"{key}_{name}": values[name] for name in others}
