"""Bytes of the tensors that a piece of code keeps, at every moment and at the most; with weights that have no data.

`with Ledger() as ledger:` counts what is made inside, storage by storage, until nothing refers to it any more. A
`Weightless` one makes models of fake tensors, which have shapes and no memory (FakeTensorMode of torch): the
same code then runs on a model of any size. Only what touches a fake tensor is one: ids, masks and lengths, which code
reads, stay real. A figure that code reads of a fake tensor (a loss, a norm) is 1. What a kernel takes for itself while
it runs is not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rlhf.errors import PreflowError

Kind = Literal["weights", "gradients", "moments", "others", "rest"]
"""`others` are models that are not trained; `rest` is all that nobody claimed: activations, logits, scratch."""
aten = torch.ops.aten


def _fake() -> Any:
    """torch's module of fake tensors, which is private to it. Raises PreflowError where this torch has none."""
    try:
        from torch._subclasses import fake_tensor

        return SimpleNamespace(FakeTensorMode=fake_tensor.FakeTensorMode, FakeTensor=fake_tensor.FakeTensor)
    except (ImportError, AttributeError) as error:
        raise PreflowError(
            f"torch {torch.__version__} has no FakeTensorMode where this preflow looks for it ({error}): plan without "
            "--exact, or install the torch of constraints.txt"
        ) from error


class Ledger(TorchDispatchMode):
    """Counts storages that operations make, from when they are made until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[Kind] = Counter()
        self.peak: Counter[Kind] = Counter()
        """By kind, when all together were at their most; moments count from the start, as they do in later steps."""
        self.most: Counter[Kind] = Counter()
        """Each kind at its own most."""
        self._before: tuple[Counter[Kind], Counter[Kind]] | None = None
        """`peak` and `most` before the optimiser's first step."""
        self._known: dict[int, tuple[Kind, int]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Ledger":
        self._hooks = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self._updates(optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self._claim_moments(optimizer)),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.run(func, args, kwargs or {})
        kind = self._kind(args[0]) if func is aten._to_copy.default else "rest"
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and self.counts(tensor):
                self._meet(tensor, kind)
        self._look()
        return result

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation."""
        return func(*args, **kwargs)

    def counts(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of those that are counted: values, no ids and masks."""
        return tensor.is_floating_point()

    def claim(self, kind: Kind, tensors: Iterable[Tensor | None]) -> None:
        """Say what these are."""
        for tensor in tensors:
            if tensor is not None and self.counts(tensor):
                self._meet(tensor, kind, claimed=True)
        self._look()

    def claim_model(self, kind: Kind, model: nn.Module) -> None:
        """Its weights and buffers; gradients of those that are trained as they come."""
        self.claim(kind, [*model.parameters(), *model.buffers()])
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(lambda one: self.claim("gradients", [one.grad]))

    def _meet(self, tensor: Tensor, kind: Kind, claimed: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            weakref.finalize(storage, self._gone, key).atexit = False
        elif not claimed:
            return
        else:
            self._forget(key)
        self._known[key] = kind, storage.nbytes()
        self.now[kind] += storage.nbytes()

    def _kind(self, tensor: Tensor) -> Kind:
        """Of a copy in another precision: what it is a copy of, where that stays for the whole step."""
        kind, _ = self._known.get(tensor.untyped_storage()._cdata, ("rest", 0))
        return kind if kind in ("weights", "gradients") else "rest"

    def _gone(self, key: int) -> None:
        self._forget(key)

    def _forget(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.now[kind] -= size

    def _look(self) -> None:
        for kind, size in self.now.items():
            if size > self.most[kind]:
                self.most[kind] = size
        if self.now.total() > self.peak.total():
            self.peak = Counter(self.now)

    def _updates(self, optimizer: torch.optim.Optimizer) -> None:
        if self._before is None:
            reserved = [one for both in getattr(optimizer, "reserved", {}).values() for one in both]
            # Nothing was written there; as much of it as becomes moments is added below.
            unwritten: Counter[Kind] = Counter({"rest": sum(one.nbytes for one in reserved)})
            self._before = self.peak - unwritten, self.most - unwritten

    def _claim_moments(self, optimizer: torch.optim.Optimizer) -> None:
        self.claim("moments", [one for state in optimizer.state.values() for one in state.values()])
        if self._before is not None:
            peak, most = self._before
            self.peak = max(peak + Counter({"moments": self.now["moments"]}), self.peak, key=Counter.total)
            self.most["rest"] = most["rest"]  # moments were, until they were claimed


class Weightless(Ledger):
    """A ledger of fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors = _fake()
        self.mode = self._tensors.FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Where models are made, as they are wanted: all tensors made inside are fake, and modules cannot be moved.

        (torch swaps a module's fake weights when it is moved, which fails where anything looks at them.)
        """
        with self.mode, patch.object(nn.Module, "to", lambda module, *_, **__: module):
            yield

    def counts(self, tensor: Tensor) -> bool:
        return isinstance(tensor, self._tensors.FakeTensor) and tensor.is_floating_point()

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not any(isinstance(one, self._tensors.FakeTensor) for one in tree_iter((args, kwargs))):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is aten.index.Tensor:  # how many a mask picks is known of a real one alone
            args = args[0], list(_places(args[1]))
        with self.mode:
            return func(*args, **kwargs)


def _places(indices: Iterable[Tensor | None]) -> Iterator[Tensor | None]:
    for one in indices:
        if one is not None and one.dtype == torch.bool:
            yield from one.nonzero(as_tuple=True)
        else:
            yield one
