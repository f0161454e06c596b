"""Faults at named points of the product, for tests alone: one table says where each bites, one variable arms them.

`PREFLOW_FAULT="checkpoint.rename:2:kill"` is a kill -9 at the second rename of a checkpoint: point, which call (`*`:
each one), what. Several are separated by commas, and `sft/` before a point leaves all stages but `sft` alone.

In a fork of a test `tests.faults.child.begun` arms them. Programs are armed by the sitecustomize in `ON_PATH`, which a
test puts on PYTHONPATH; without that nothing reads the variable, as no module of the product knows of it. This file
imports nothing of the product, so that a program's imports are its own.
"""

import errno
import importlib.abc
import importlib.machinery
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "PREFLOW_FAULT"
ON_PATH = Path(__file__).parent / "armed"


def always(*_: Any, **__: Any) -> bool:
    return True


def named(name: str) -> Callable[..., bool]:
    """Calls about a file of this name."""
    return lambda path, *_, **__: Path(path).name == name


def _is_moved_output(source: Any, target: Any, **_: Any) -> bool:
    here, there = Path(source).parent.name, Path(target).parent.name
    return here.startswith(".tmp-") and not there.startswith(".tmp-")


@dataclass(frozen=True)
class Point:
    """Before (or after) the calls of a function about which `when` says so, by their arguments."""

    at: str
    """`module:name`, as whoever calls it finds it."""
    when: Callable[..., bool] = always
    after: bool = False


POINTS = {
    "clock": Point("time:time", after=True),
    "step.update": Point("rlhf.trainer:update"),
    "second_rank.update": Point("rlhf.trainer:update", lambda *_: os.environ.get("RANK") == "1"),
    "checkpoint.begin": Point("rlhf.checkpoints:save_file"),
    "checkpoint.tensors": Point("rlhf.checkpoints:save_file", after=True),
    "checkpoint.state": Point("pathlib:Path.write_text", named("state.json")),
    "checkpoint.sync": Point("rlhf.checkpoints:sync", named("tensors.safetensors")),
    "checkpoint.rename": Point("os:rename", lambda _, target, **__: Path(target).name.startswith("step-")),
    "retired.rename": Point("os:rename", lambda source, _, **__: Path(source).name.startswith("step-")),
    "retired.unlink": Point("os:unlink", named("tensors.safetensors")),
    "retired.rmdir": Point("os:rmdir", lambda path, **_: Path(path).name.startswith(".old-step-")),
    "policy.write": Point("rlhf.models.policy:save_code"),
    "output.rename": Point("os:replace", _is_moved_output),
}


def _signal(number: int, value: Any) -> Any:
    os.kill(os.getpid(), number)
    return value


def _hang(_: Any) -> None:
    while True:
        signal.pause()


def _refuse(number: int, _: Any) -> None:
    raise OSError(number, os.strerror(number))


_jumps = itertools.cycle([0.0, 8e8])  # to and fro over 25 years

WHAT: dict[str, Callable[[Any], Any]] = {
    "kill": partial(_signal, signal.SIGKILL),
    "stop": partial(_signal, signal.SIGSTOP),
    "term": partial(_signal, signal.SIGTERM),
    "int": partial(_signal, signal.SIGINT),
    "hang": _hang,
    "jump": lambda seconds: seconds - next(_jumps),
    **{name: partial(_refuse, getattr(errno, name)) for name in ("ENOSPC", "EDQUOT", "EFBIG")},
}
"""What happens there; it is given what the function gave, and gives that, or something else, to the caller."""


def arm(faults: str) -> None:
    """From now on this process has these faults; what it imports later has them too.

    Raises ValueError where there is no such point or fault.
    """
    for fault in filter(None, faults.split(",")):
        where, call, what = fault.rsplit(":", 2)
        stage, _, name = where.rpartition("/")
        if name not in POINTS or what not in WHAT:
            raise ValueError(f"{VARIABLE}: {fault!r}: points are {', '.join(POINTS)}; faults are {', '.join(WHAT)}")
        if stage in ("", os.environ.get("DVC_STAGE", "").rpartition(":")[2]):
            module, _, attribute = POINTS[name].at.partition(":")
            _when_imported(module, partial(_wrap, attribute, name, None if call == "*" else int(call), what))


def _wrap(attribute: str, name: str, call: int | None, what: str, module: ModuleType) -> None:
    path, _, last = attribute.rpartition(".")
    owner = attrgetter(path)(module) if path else module
    original, point, count = getattr(owner, last), POINTS[name], itertools.count(1)

    def biting(*arguments: Any, **options: Any) -> Any:
        due = point.when(*arguments, **options) and call in (None, next(count))
        if due and call:
            os.write(2, f"fault: {name}, call {call}: {what}\n".encode())
        if due and not point.after:
            WHAT[what](None)
        value = original(*arguments, **options)
        return WHAT[what](value) if due and point.after else value

    setattr(owner, last, biting)


class _OnImport(importlib.abc.MetaPathFinder):
    """Finds some modules as all others would, and patches each when it has been loaded."""

    def __init__(self) -> None:
        self.patches: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.patches:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def loaded(module: ModuleType) -> None:
                load(module)
                for patch in self.patches[name]:
                    patch(module)

            spec.loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


_ON_IMPORT = _OnImport()


def _when_imported(name: str, patch: Callable[[ModuleType], None]) -> None:
    if name in sys.modules:
        patch(sys.modules[name])
        return
    _ON_IMPORT.patches.setdefault(name, []).append(patch)
    if _ON_IMPORT not in sys.meta_path:
        sys.meta_path.insert(0, _ON_IMPORT)
