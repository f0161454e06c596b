"""Checkpoints of a training whose weights several processes divide: each writes its share of them beside the first.

The shares lie in `tensors-1.safetensors`, …, in the checkpoint's own folder, and the manifest is over all of them; the
first process's are in its own file, with everything that is not divided. Any number of processes can go on from them: a
weight is put together and divided anew. All processes must see the folder.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf.checkpoints import Checkpoint, Further, sync
from rlhf.distributed import Group
from rlhf.errors import NumericsError
from rlhf.manifests import MANIFEST, STATE, TENSORS, fingerprint
from rlhf.sharding import divided as is_divided

SHARE = "tensors-{}.safetensors"


def divided(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors of which each process has a share: of divided weights, but for plain numbers."""
    names = _divided_names(modules)
    return {key: tensor for key, tensor in tensors.items() if _weight(key) in names and tensor.dim()}


def gathered(group: Group, shares: Mapping[str, Tensor]) -> Further:
    """For the first process: have the others write their shares into the folder, where there are any."""

    def further(folder: Path) -> dict[str, dict[str, Any]]:
        if not shares:
            return {}
        group.told(lambda: str(folder))
        found: dict[str, dict[str, Any]] = {}
        for written in group.everyones({}):
            found |= written
        return found

    return further


def save_beside(group: Group, shares: Mapping[str, Tensor]) -> None:
    """For the other processes: write their shares into the folder that the first one tells.

    Raises NumericsError where one is not finite; the first process then ends without this checkpoint.
    """
    if not shares:
        return
    bad = [name for name, tensor in shares.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise NumericsError(f"{len(bad)} tensors are not finite (first: {bad[0]}); not saved")
    path = Path(group.told(str)) / SHARE.format(group.rank)
    save_file({name: tensor.detach().contiguous() for name, tensor in shares.items()}, path)
    sync(path)
    group.everyones({path.name: fingerprint(path)})


class Joined(Mapping[str, Tensor]):
    """The tensors of a checkpoint as this process needs them: put together, and its share where it has only that."""

    def __init__(self, saved: Checkpoint, modules: Mapping[str, nn.Module], group: Group) -> None:
        self._first, self._names, self._group = saved.tensors, _divided_names(modules), group
        named: dict[str, Any] = json.loads((saved.folder / MANIFEST).read_text("utf-8"))  # only these were verified
        self._files = [saved.folder / SHARE.format(rank) for rank in range(1, len(named.keys() - {TENSORS, STATE}) + 1)]

    def __getitem__(self, key: str) -> Tensor:
        parts = [self._first[key]]
        with ExitStack() as stack:
            for file in self._files:
                opened = stack.enter_context(safe_open(file, "pt"))
                if key in opened.keys():  # noqa: SIM118
                    parts.append(opened.get_tensor(key))
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if _weight(key) not in self._names or not whole.dim():
            return whole
        cut = whole.chunk(self._group.size)  # as FSDP2 cuts; the last ones may have nothing
        return cut[self._group.rank] if self._group.rank < len(cut) else whole[:0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def _divided_names(modules: Mapping[str, nn.Module]) -> set[str]:
    return {
        f"{module}.{name}"
        for module, part in modules.items()
        for name, weight in part.named_parameters()
        if is_divided(weight)
    }


def _weight(key: str) -> str:
    """Which weight a tensor of a checkpoint belongs to: `weight:NAME` or `adamw:SLOT:NAME`."""
    return key.split(":", 2)[-1] if key.startswith("adamw:") else key.removeprefix("weight:")
