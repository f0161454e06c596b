"""The scratch folder of a stage, checkpoints and all, kept in the exchange: who does the stage next goes on from there.

Each attempt has a folder of its own below the stage's key, with its files by SHA-256 and an `index.json` that is
written after them. So two that are at it, one of them frozen and given up, never mix; and as the key says all that the
stage depends on, it makes no difference which host or which run goes on.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flows.pools.exchange import Exchange
from rlhf.errors import DependencyDown, PreflowError
from rlhf.manifests import fingerprint

_INDEX = "index.json"
_SMALL = 1 << 20
"""Bytes up to which files are copied and not linked: small ones may be appended to, large ones are never changed."""
_LEFT = (".tmp-", ".old-", "handed_over", "shared")
"""Of things half done, and of what is made anew at no cost."""
_TRIES = 5


class Mirror:
    """The side of who does the stage."""

    def __init__(self, exchange: Exchange, scratch: Path, attempt: str) -> None:
        self._exchange, self._scratch = exchange, scratch
        self._stage = _of_stage(scratch)
        self._folder = f"{self._stage}/{attempt}"
        self._there: set[str] = set()
        self._steps: tuple[str, ...] = ()

    def push(self, whatever: bool = False) -> bool:
        """Send what lies there where there is a new checkpoint, or `whatever` has changed; True where something was.

        Raises:
            DependencyDown: the exchange did not take it; what was there before is whole.
        """
        if not whatever and steps_of(self._scratch) in ((), self._steps):
            return False
        with _frozen(self._scratch) as frozen:
            files = {name: fingerprint(path) for name, path in _listed(frozen)}
            if not files:
                return False
            wanted = {str(about["sha256"]) for about in files.values()}
            for name, about in files.items():
                if about["sha256"] not in self._there:
                    self._exchange.send(frozen / name, f"{self._folder}/{about['sha256']}")
                    self._there.add(about["sha256"])
            steps = steps_of(frozen)
        index = {"files": files, "reached": _reached(steps)}
        self._exchange.put(f"{self._folder}/{_INDEX}", json.dumps(index).encode())
        self._steps = steps
        for old in self._there - wanted:
            self._exchange.remove(f"{self._folder}/{old}")
        self._there &= wanted
        return True

    def restore(self) -> int:
        """Bring the furthest that any attempt has left, where it is further than what lies here; its steps, else 0.

        Raises:
            DependencyDown: the exchange did not answer.
        """
        for reached, attempt, files in self._others():
            if reached <= _reached(steps_of(self._scratch)):
                return 0
            if self._brought(attempt, files):
                return reached
        return 0

    def forget(self) -> None:
        """The stage is done: nobody will go on with it."""
        self._exchange.remove(self._stage)

    def _others(self) -> list[tuple[int, str, dict[str, Any]]]:
        found = []
        for attempt in self._exchange.names(self._stage):
            data = self._exchange.get(f"{self._stage}/{attempt}/{_INDEX}")
            try:
                told = json.loads(data or b"")
                found.append((int(told["reached"]), attempt, dict(told["files"])))
            except (ValueError, KeyError, TypeError):
                continue  # of an attempt that was ended before it had sent one whole
        return sorted(found, key=lambda one: one[:2], reverse=True)

    def _brought(self, attempt: str, files: dict[str, Any]) -> bool:
        """Into a folder beside the scratch, which takes its place when all is there and is what the index says."""
        draft = self._scratch.with_name(f".tmp-{self._scratch.name}")
        shutil.rmtree(draft, ignore_errors=True)
        for name, about in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise PreflowError(f"the exchange {self._exchange.url} names {name!r}, which no stage of ours keeps")
            target = draft / path
            target.parent.mkdir(parents=True, exist_ok=True)
            there = self._exchange.fetch(f"{self._stage}/{attempt}/{about['sha256']}", target)
            if not there or fingerprint(target) != about:
                shutil.rmtree(draft)
                return False
        shutil.rmtree(self._scratch, ignore_errors=True)
        draft.rename(self._scratch)
        return True


def steps_of(scratch: Path) -> tuple[str, ...]:
    """The checkpoints that lie in a scratch folder, finished ones."""
    found = (path.relative_to(scratch).as_posix() for path in scratch.glob("**/step-*") if path.is_dir())
    return tuple(sorted(found))


def _reached(steps: tuple[str, ...]) -> int:
    """How far checkpoints are, of all that a stage trains one after the other."""
    newest: dict[str, int] = {}
    for path in steps:
        folder, _, name = path.rpartition("/")
        newest[folder] = max(newest.get(folder, 0), int(name.removeprefix("step-") or 0))
    return sum(newest.values())


def _of_stage(scratch: Path) -> str:
    return f"checkpoints/{scratch.name}"


@contextmanager
def _frozen(scratch: Path) -> Iterator[Path]:
    """The scratch folder as it was at one moment between two checkpoints, in links and copies."""
    target = scratch.with_name(f".frozen-{scratch.name}-{secrets.token_hex(4)}")
    try:
        for _ in range(_TRIES):
            shutil.rmtree(target, ignore_errors=True)
            before = steps_of(scratch)
            try:
                shutil.copytree(scratch, target, copy_function=_link_or_copy, ignore=_left_out)
            except (OSError, shutil.Error):  # what is older than a new checkpoint is removed meanwhile
                continue
            if before == steps_of(scratch):
                break
        else:
            raise DependencyDown(f"{scratch.name}: checkpoints come faster than they can be sent; this one is left out")
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _left_out(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(_LEFT)]


def _link_or_copy(source: str, target: str) -> str:
    if os.path.getsize(source) > _SMALL:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
    return target


def _listed(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
