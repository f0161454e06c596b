"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder `step-000123` with `tensors.safetensors`, `state.json` and, written last, `manifest.json`
(size and SHA-256 of the other two). It is filled under a temporary name, synced to disk and then renamed in one step; a
folder whose manifest does not verify is set aside with the reason, and the newest one that verifies is used. Nothing
that is loaded can run code: the files are safetensors and JSON only.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import NumericsError
from rlhf.manifests import MANIFEST, STATE, TENSORS, fingerprint, problem, set_aside
from rlhf.spending import spent


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints of one training run; another run has another folder (stages: named by the stage key)."""

    folder: Path
    every: int
    """Optimiser steps between two checkpoints; a multiple of the inner steps taken on one batch of rollouts."""
    keep: int = 2
    """How many verified checkpoints stay on disk."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"every={self.every} and keep={self.keep}: expected both at least 1")

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; None where there is none. Broken ones are set aside on the way."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            why = problem(path)
            if why:
                set_aside(path, why)
                continue
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            return Checkpoint(state["step"], load_file(path / TENSORS), state["state"])
        return None

    @spent("save")
    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, then remove verified ones beyond the newest `keep`.

        Raises NumericsError, and writes nothing, where a tensor is not finite.
        """
        bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise NumericsError(f"step {step}: {len(bad)} tensors are not finite (first: {bad[0]}); not saved")
        self.folder.mkdir(parents=True, exist_ok=True)
        draft, final = self.folder / f".tmp-{step:06d}", self.folder / f"step-{step:06d}"
        _remove(draft)
        draft.mkdir()
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, draft / TENSORS)
        text = json.dumps({"step": step, "state": state}, sort_keys=True, allow_nan=False)
        (draft / STATE).write_text(text, encoding="utf-8")
        manifest = {name: fingerprint(draft / name) for name in (TENSORS, STATE)}
        _sync(draft / TENSORS)
        _sync(draft / STATE)
        (draft / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")
        _sync(draft / MANIFEST)
        _sync(draft)
        _remove(final)
        draft.rename(final)
        _sync(self.folder)
        self._retain()

    def _retain(self) -> None:
        valid = 0
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if valid >= self.keep:
                _remove(path)
            elif problem(path) is None:
                valid += 1


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Rename first: a kill in the middle of the removal must not leave half a checkpoint under a good name."""
    if path.exists():
        doomed = path.with_name(f".old-{path.name.lstrip('.')}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
