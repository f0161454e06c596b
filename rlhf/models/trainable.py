"""From a policy on disk to one that is trained: all its weights, or a new adapter on a base that stays as it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import torch

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models.adapted import Adapted
from rlhf.models.adapter_files import STACK, sha256_of, weights_file
from rlhf.models.adapters import Adapter, Base, Origin, Shape
from rlhf.models.policy import Policy, load_base, load_policy
from rlhf.models.recompute import recompute_blocks
from rlhf.seeding import derive


class Training(Protocol):
    """How to train; `tasks.config.training` has the meaning of each."""

    @property
    def method(self) -> Literal["full", "lora", "qlora"]: ...
    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def dropout(self) -> float: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def dtype(self) -> Literal["float32", "bfloat16"]: ...
    @property
    def gradient_checkpointing(self) -> bool: ...


def trainable(folder: Path, training: Training, seed: int, label: str, over: Policy | None = None) -> Policy:
    """The policy of `folder`, ready for an optimiser; its parameters with `requires_grad` are what is trained.

    In full these are all weights; adapters that the folder has are merged into them first. Else they are a new adapter
    called `label` on top of those it has, drawn from (seed, label), which changes nothing before it is trained. `over`
    is a policy whose base is used where it is the same, so that it is in memory once.

    Raises PreflowError where adapters were trained on a base that is kept otherwise than `training` says.
    """
    if training.method == "full":
        return in_full(merged(load_policy(folder)), training)
    return with_adapter(_adapted(folder, training, over), training, seed, label)


def in_full(policy: Policy, training: Training) -> Policy:
    """A policy without adapters, whose weights are all trained."""
    policy.model.to(getattr(torch, training.dtype))
    if training.gradient_checkpointing:
        recompute_blocks(policy.model)
    return policy


def with_adapter(start: Policy, training: Training, seed: int, label: str) -> Policy:
    """A view of a base with a new adapter on those it has, which is trained."""
    base, below = start.model.base, start.model.adapters
    targets = tuple(sorted(training.targets)) or base.linear
    tokens = tuple(sorted(_trained_tokens(start.chat)))
    shape = Shape(training.rank, training.alpha, training.dropout, targets, tokens)
    adapter = base.add(label, shape, below, derive(seed, label))
    if training.gradient_checkpointing:
        base.recompute()
    return replace(start, model=base.view([*below, adapter], trained=True))


def load_reference(folder: Path, learner: Policy) -> Policy:
    """The policy of `folder` to measure `learner` against, in memory once where both have a base or adapters in common.

    Where the learner started from this folder, it is the learner with its newest adapter off, whether or not the
    folder has adapters of its own: a base alone is then kept as the learner keeps it, in 4 bits too. A learner without
    adapters is measured against merged weights in its own precision, as it started from them: KL is 0 at step 0.
    """
    if not isinstance(learner.model, Adapted):
        reference = merged(load_policy(folder))
        reference.model.to(learner.model.dtype)
        return reference
    if not (folder / STACK).is_file():
        base = learner.model.base
        if sha256_of(weights_file(folder)) == base.origin.weights:
            return Policy(base.view([]), Chat.load(folder))
    return load_policy(folder, learner)


def merged(policy: Policy) -> Policy:
    """The policy without adapters: they are merged into the base's original float32 weights, loaded anew.

    The same function but for rounding. Not so where the base is kept in 4 bits: its adapters made up for rounding
    errors that the original weights do not have. A plain policy is given back as it is.
    """
    if not isinstance(policy.model, Adapted):
        return policy
    origin = replace(policy.model.base.origin, quantised=False, dtype="float32")
    base = load_base(origin)
    copies: list[Adapter] = []
    for adapter in policy.model.adapters:
        copy = base.add(adapter.label, adapter.shape, copies)
        with torch.no_grad():
            for name, tensor in copy.tensors().items():
                tensor.copy_(adapter.tensors()[name])
        copies.append(copy)
    return Policy(base.merged(copies).requires_grad_(True).eval(), policy.chat)


def _adapted(folder: Path, training: Training, over: Policy | None) -> Policy:
    """The folder's policy as a view of a base that is kept as `training` says."""
    quantised = training.method == "qlora"
    if (folder / STACK).is_file():
        start = load_policy(folder, over)
        origin: Origin = start.model.base.origin
        if (origin.quantised, origin.dtype) != (quantised, training.dtype):
            kept = f"{'qlora' if origin.quantised else 'lora'} and {origin.dtype}"
            raise PreflowError(
                f"the adapters of {folder.name} were trained with {kept}, training.method is {training.method} and "
                f"training.dtype {training.dtype}: set them alike, or training.method to full, which merges them first"
            )
        return start
    origin = Origin(folder, sha256_of(weights_file(folder)), quantised, training.dtype)
    shared = over.model.base if over is not None and isinstance(over.model, Adapted) else None
    base: Base = shared if shared is not None and shared.origin.same_base(origin) else load_base(origin)
    return Policy(base.view([]), Chat.load(folder))


def _trained_tokens(chat: Chat) -> set[int]:
    """Ids whose rows are trained with an adapter: control tokens, which a chat may have added, but not the padding."""
    return set(chat.control_ids) - {chat.pad_id}
