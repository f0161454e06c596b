"""Several processes that train as one: each does its share of a step, and all of them end it with the same weights.

They are started alike, with the same arguments; torchrun's variables (RANK, WORLD_SIZE, …) tell each which one it is.
As all randomness is derived from seed and step, each knows the whole step and takes its share of the micro-batches; as
all sums are divided by ONE denominator of the step, the gradients of all processes added up are those of one. A process
alone is a group of one, for which nothing is sent and nothing changes.

What is sent is tensors, and JSON as bytes: nothing is unpickled. Whatever a group does, all its processes must do, and
in the same order; where one of them has ended, the others end with PreflowError, and where one does not come, with
Preempted after `PREFLOW_RANK_TIMEOUT`: a run begins such a stage again, from its last checkpoint.
"""

import faulthandler
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf.errors import Preempted, PreflowError
from rlhf.interruption import STACKS, STOP

T = TypeVar("T")

CPU = torch.device("cpu")
TIMEOUT = "PREFLOW_RANK_TIMEOUT"
"""Variable with the most seconds that one process waits for another (600): for the slowest thing that one does alone,
which is to write a checkpoint or to ask a judge."""
RENDEZVOUS = "PREFLOW_RENDEZVOUS"
"""Variable with where the processes meet, as torch names it (env://, torchrun's way)."""
BUCKET = 2**25
"""Numbers that are sent at a time: few large messages are quicker than many small ones, and copies take memory."""


@dataclass(frozen=True)
class Group:
    """This process and those that it trains with."""

    rank: int = 0
    """Its number, from 0; the first one writes what is written."""
    size: int = 1
    device: torch.device = CPU
    """Where tensors must be to be sent."""

    def passes(self, items: Sequence[T], alike: bool) -> Iterator[tuple[T, bool]]:
        """The items that are this process's share, of each kind (type) that there is.

        `alike` is for models whose blocks are divided, which all processes compute together: where one has fewer items
        than another it is given one more that does not count, which is what the second value says.
        """
        if self.size == 1:
            yield from ((item, True) for item in items)
            return
        for kind in dict.fromkeys(map(type, items)):
            of_kind = [item for item in items if type(item) is kind]
            yield from ((item, True) for item in self.share(of_kind))
            if alike and self.rank >= len(of_kind) % self.size > 0:
                yield of_kind[0], False

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's: they are dealt out in turn, so that long and short ones spread."""
        return items[self.rank :: self.size]

    def everyones(self, value: Any) -> list[Any]:
        """What each process gives, in the order of ranks: plain values, as JSON keeps them."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8).to(self.device)
        sizes = [int(size) for size in self._gathered(torch.tensor([len(own)], device=self.device))]
        texts = self._gathered(nn.functional.pad(own, (0, max(sizes) - len(own))))
        return [json.loads(bytes(text[:size].tolist())) for text, size in zip(texts, sizes, strict=True)]

    def told(self, work: Callable[[], T]) -> T:
        """What `work` gives the first process, which alone does it: plain values, as JSON keeps them."""
        if self.size == 1:
            return work()
        found: T = self.everyones(work() if self.rank == 0 else None)[0]
        return found

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return any(self.everyones(flag))

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor the sum of those of all processes, in place; half precision is added up in float32."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            flat = torch.cat([tensor.reshape(-1).to(self.device, wide) for tensor in bucket])
            with _company(self.size):
                torch.distributed.all_reduce(flat)
            for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def copy_first(self, tensor: Tensor) -> None:
        """Fill a contiguous tensor, whatever it holds, with that of the first process."""
        if self.size == 1 or not tensor.numel():
            return
        held = tensor.detach().reshape(-1).view(torch.uint8)
        sent = held.to(self.device)
        with _company(self.size):
            torch.distributed.broadcast(sent, 0)
        held.copy_(sent)

    @torch.no_grad()
    def add_up_gradients(self, modules: Iterable[nn.Module]) -> None:
        """Make `.grad` of every trained weight the sum over all processes; None where none of them has a gradient.

        Of weights that are divided (`rlhf.sharding`) it is that already.
        """
        if self.size == 1:
            return
        every = (one for module in modules for one in module.parameters())
        trained = dict.fromkeys(one for one in every if one.requires_grad and not hasattr(one, "to_local"))
        having = torch.tensor([float(one.grad is not None) for one in trained])
        self.add_up([having])
        reached = [one for one, count in zip(trained, having.tolist(), strict=True) if count]
        for one in reached:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        self.add_up(one.grad for one in reached)

    def averages(self, loss: float, own: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
        """The loss, which is a sum, and averages over the items of all processes, from those of each.

        `counts` are the items that each of `own` is the average of, or the maximum, where its name ends in `_max`.
        """
        found = {"loss": loss, **own}
        if self.size == 1:
            return found
        parts = self.everyones([loss, own, counts])
        found = {"loss": sum(part for part, _, _ in parts)}
        for name in dict.fromkeys(name for _, averages, _ in parts for name in averages):
            values = [(averages[name], counts[name]) for _, averages, counts in parts if name in averages]
            if name.endswith("_max"):
                found[name] = max(value for value, _ in values)
            else:
                found[name] = sum(value * count for value, count in values) / sum(count for _, count in values)
        return found

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _company(self.size):
            torch.distributed.all_gather(found, tensor)
        return found


@cache
def group() -> Group:
    """Those that this process trains with, by its environment; they meet at the first call."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Group()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # To the stream itself, as all but the first process have `sys.stderr` say nothing.
    faulthandler.register(STACKS, file=2, all_threads=True)
    backend, seconds = "nccl" if device.type == "cuda" else "gloo", _patience()
    with _company(size):
        store = _met(rank, size, seconds)
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
        )
    return Group(rank, size, device)


def _met(rank: int, size: int, seconds: float) -> Any:
    """torch's store, once all have come; waited for here, as within torch a process hears of no request to stop."""
    where = os.environ.get(RENDEZVOUS, "env://")
    store, _, _ = next(torch.distributed.rendezvous(where, rank, size, timeout=timedelta(seconds=seconds)))
    until = time.monotonic() + seconds
    here = store.add("preflow", 1)
    while here < size:
        if STOP.asked:
            raise STOP.error("the processes of this training had not met yet")
        if time.monotonic() > until:
            raise RuntimeError(f"{here} of {size} have come")
        time.sleep(0.05)
        here = store.add("preflow", 0)
    return store


def own_device() -> torch.device:
    """The GPU that is this process's, by its number on the machine; the CPU where there are none.

    Raises PreflowError where there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return CPU
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise PreflowError(f"process {number} of this machine has no GPU, there are {count}: lower training.nproc")
    return torch.device("cuda", number)


def _patience() -> float:
    return float(os.environ.get(TIMEOUT, 600))


@contextmanager
def _company(size: int) -> Iterator[None]:
    """Raises PreflowError where another process has ended, and Preempted, after a stack dump, where it hangs."""
    began = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        hangs = time.monotonic() - began > 0.9 * _patience()  # what torch says of it differs from backend to backend
        if hangs:
            faulthandler.dump_traceback(file=2)
        what = f"does not answer within {TIMEOUT}" if hangs else "has ended"
        raise (Preempted if hangs else PreflowError)(
            f"another of the {size} processes of this training {what} "
            f"({str(error).splitlines()[0]}): look at what it said; the same command goes on from the last checkpoint"
        ) from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, by so many of one type that together they have about `BUCKET` numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(one.numel() for one in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
