"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder `step-000123` with `tensors.safetensors`, `state.json` and, written last, `manifest.json`
(size and SHA-256 of the other two). It is filled under a temporary name, synced to disk and then renamed in one step; a
folder whose manifest does not verify is set aside with the reason, and the newest one that verifies is used. Nothing
that is loaded can run code: the files are safetensors and JSON only.
"""

import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import NumericsError, PreflowError
from rlhf.interruption import SAVING
from rlhf.manifests import MANIFEST, STATE, TENSORS, fingerprint, problem, set_aside
from rlhf.spending import spent

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
"""Of a file system that has no room or may not be written to; of other errors nobody here knows what to do."""
SPARE = 1.2
"""How much more room there must be than is foreseen: others write there too."""


Further = Callable[[Path], dict[str, dict[str, Any]]]
"""Writes files into a folder, on disk for good; the fingerprint of each by name."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    folder: Path
    """Where it lies, with the files that the caller wrote beside it."""


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints of one training run; another run has another folder (stages: named by the stage key)."""

    folder: Path
    every: int
    """Optimiser steps between two checkpoints; a multiple of the inner steps taken on one batch of rollouts."""
    keep: int = 2
    """How many verified checkpoints stay on disk."""
    unit: int = 1
    """Steps that only make sense together, such as the inner steps on one batch of rollouts: none is saved halfway."""
    of: Mapping[str, str] = field(default_factory=dict)
    """What the trainer cannot see and a checkpoint must share with who goes on from it: the vocabulary, and digests of
    data and loss. Stages have the latter in `made_of.json` beside the folder, which counts as well."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"every={self.every} and keep={self.keep}: expected both at least 1")

    def prepare(self, size: int, saves: int, output: int) -> None:
        """Before the first step: remove what a kill left half done, and make sure of room until the end.

        Args:
            size: bytes of a checkpoint.
            saves: how many are still to be written; of them and those that are there `keep` stay, and one more while
                it is written.
            output: bytes of the model that is made of them.

        Raises:
            PreflowError: there is not room enough, or nothing may be written there.
        """
        with self._explained("what is trained", f"{size:,} bytes"):
            self.folder.mkdir(parents=True, exist_ok=True)
            for half in (*self.folder.glob(".tmp-*"), *self.folder.glob(".old-*")):
                shutil.rmtree(half)
            probe = self.folder / ".tmp-probe"
            probe.mkdir()
            probe.rmdir()
        more = max(1, min(saves, self.keep + 1 - len(self._there())))
        needed = math.ceil(SPARE * (more * size + output))
        parts = f"checkpoints: {more} of {size:,}; the model: {output:,}; a fifth more"
        with self._explained("what is trained", f"{needed:,} bytes ({parts})"):
            self._refuse_without_room(needed)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; None where there is none. Broken ones are set aside on the way.

        Raises:
            PreflowError: they cannot be read just now; all are left as they are.
        """
        broken = 0
        try:
            for path in self._there():
                found = _checked(path)
                if isinstance(found, Checkpoint):
                    return found
                aside = set_aside(path, found)
                broken += 1
                print(f"checkpoint {path.name} cannot be used ({found}): now {aside}", file=sys.stderr, flush=True)
        except OSError as error:
            raise PreflowError(
                f"the checkpoints in {self.folder} cannot be read: {type(error).__name__}: {error}; they are left as "
                "they are: the same command goes on from them once they can be read"
            ) from error
        if broken:
            print(f"none of {broken} checkpoints can be used: begun anew at step 0", file=sys.stderr, flush=True)
        return None

    @spent("save")
    def save(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], further: Further = lambda folder: {}
    ) -> None:
        """Write the checkpoint of `step`, then remove verified ones beyond the newest `keep`.

        `further` may write other files into the folder, and says their fingerprints.

        Raises:
            NumericsError: a tensor is not finite; nothing is written.
            PreflowError: the disk is full, or refuses; earlier checkpoints are as they were.
        """
        bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise NumericsError(f"step {step}: {len(bad)} tensors are not finite (first: {bad[0]}); not saved")
        text = json.dumps({"step": step, "finite": True, "state": state}, sort_keys=True, allow_nan=False)
        size = sum(tensor.nbytes for tensor in tensors.values()) + len(text)
        began = time.monotonic()
        with self._explained(f"the checkpoint of step {step}", f"{size:,} bytes"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_without_room(size)
            self._write(step, tensors, text, further)
        self._retain()
        if (took := time.monotonic() - began) > SAVING / 2:
            print(
                f"the checkpoint of step {step} took {took:.0f} s to save, and who is asked to stop has {SAVING:.0f} s "
                "for the step that it is in and its checkpoint: PREFLOW_SAVING gives more",
                file=sys.stderr,
                flush=True,
            )

    def _write(self, step: int, tensors: Mapping[str, Tensor], text: str, further: Further) -> None:
        draft, final = self.folder / f".tmp-{step:06d}", self.folder / f"step-{step:06d}"
        _remove(draft)
        draft.mkdir()
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, draft / TENSORS)
            (draft / STATE).write_text(text, encoding="utf-8")
            manifest = {name: fingerprint(draft / name) for name in (TENSORS, STATE)} | further(draft)
            sync(draft / TENSORS)
            sync(draft / STATE)
            (draft / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")
            sync(draft / MANIFEST)
        except Exception:
            shutil.rmtree(draft, ignore_errors=True)  # what little there was room for must not fill the disk
            raise
        sync(draft)
        _remove(final)
        draft.rename(final)
        sync(self.folder)

    def _refuse_without_room(self, size: int) -> None:
        """Not even begun, as a file system that is full ends writers of mapped files with a signal."""
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, "no space left")

    @contextmanager
    def _explained(self, what: str, needed: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            if isinstance(error, OSError) and error.errno not in _REFUSALS:
                raise
            there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            free = shutil.disk_usage(there).free
            raise PreflowError(
                f"{what} cannot be written to {self.folder}: {_short(error)}; it needs {needed} and {free:,} are "
                "free there: make room, or let it be written to; the same command then goes on from the one before"
            ) from error

    def _retain(self) -> None:
        valid = 0
        with suppress(OSError):  # what cannot be read now may be good: nothing older goes before the next save
            for path in self._there():
                if valid >= self.keep:
                    _remove(path)
                elif problem(path) is None:
                    valid += 1

    def _there(self) -> list[Path]:
        """All that were finished, the newest first. A folder that cannot be read is no empty one, as it is to `glob`.

        Raises:
            OSError: it cannot be read.
        """
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return [self.folder / name for name in sorted(names, reverse=True) if name.startswith("step-")]


def _checked(path: Path) -> Checkpoint | str:
    """What was saved there, or why it cannot be used."""
    if why := problem(path):
        return why
    try:
        return _read(path)
    except (SafetensorError, ValueError, KeyError) as error:  # no accident, as the manifest agrees
        return f"its files are none of ours: {type(error).__name__}: {error}"


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Checkpoint(state["step"], load_file(path / TENSORS), state["state"], path)


def _short(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def sync(path: Path) -> None:
    """Have what was written to a file or folder on disk before going on."""
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
