"""The scratch folder of a stage, checkpoints and all, kept in the exchange: who does the stage next goes on from there.

Each attempt has a folder of its own below the stage's key, with its files by SHA-256 and an `index.json` that is
written after them. So two that are at it, one of them frozen and given up, never mix; and as the key says all that the
stage depends on, it makes no difference which host or which run goes on. Only a run that was told to run the stage
again goes on from nothing but its own attempts, which the index tells from others.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.pools.exchange import Exchange
from flows.pools.mail import GROWING
from rlhf.errors import DependencyDown, PreflowError
from rlhf.manifests import fingerprint
from tasks.inside import leads_out

_INDEX = "index.json"
_LEFT = (".tmp-", ".old-", "handed_over", "shared")
"""Of things half done, and of what is made anew at no cost."""
_TRIES = 5
Left = tuple[tuple[int, int], str, dict[str, Any]]
"""How far an attempt came, its name, and its files as the index has them."""


class Mirror:
    """The side of who does the stage."""

    def __init__(self, exchange: Exchange, scratch: Path, attempt: str, run: str) -> None:
        """`attempt` tells this one from all others, also of the same `run`."""
        self._exchange, self._scratch, self._run = exchange, scratch, run
        self.folder = f"checkpoints/{scratch.name}"
        """Of the exchange, with what all attempts at the stage have left."""
        self._own = f"{self.folder}/{attempt}"
        self._there: set[str] = set()
        self._sent: tuple[int, int] = (0, 0)
        for left in scratch.parent.glob(f".frozen-{scratch.name}-*"):  # by a kill; its links would hold the disk
            shutil.rmtree(left, ignore_errors=True)

    def push(self, whatever: bool = False) -> bool:
        """Send what lies there where there is a new checkpoint, or `whatever` there is more of; True where it was sent.

        Raises:
            DependencyDown: the exchange did not take it; what was there before is whole.
            OSError: the disk has no room, or the stage has just removed what was to be sent.
        """
        now = progress(self._scratch)
        if now <= self._sent or not (whatever or now[0] > self._sent[0]):
            return False
        with _frozen(self._scratch) as frozen:
            files = {name: fingerprint(path) for name, path in _listed(frozen)}
            if not files:
                return False
            wanted = {str(about["sha256"]) for about in files.values()}
            for name, about in files.items():
                if about["sha256"] not in self._there:
                    self._exchange.send(frozen / name, f"{self._own}/{about['sha256']}")
                    self._there.add(about["sha256"])
            reached = progress(frozen)
        told = {"files": files, "reached": reached, "run": self._run}
        self._exchange.put(f"{self._own}/{_INDEX}", json.dumps(told).encode())
        self._sent = now
        for old in self._there - wanted:
            self._exchange.remove(f"{self._own}/{old}")
        self._there &= wanted
        return True

    def restore(self) -> bool:
        """Bring the furthest that any attempt has left, where it is further than what lies here; True where it was.

        Raises:
            DependencyDown: the exchange did not answer.
        """
        return self._restored(self._others())

    def restore_own(self) -> bool:
        """As `restore`, of what attempts of this run have left and of nothing else: what lies here goes.

        Raises:
            DependencyDown: the exchange did not answer.
        """
        own = self._others(self._run)
        shutil.rmtree(self._scratch, ignore_errors=True)
        return self._restored(own)

    def _restored(self, others: list[Left]) -> bool:
        for reached, attempt, files in others:
            if reached <= progress(self._scratch):
                return False
            if self._brought(attempt, files):
                return True
        return False

    def _others(self, run: str = "") -> list[Left]:
        """What attempts have left, of one run or all; the furthest first."""
        found = []
        for attempt in self._exchange.names(self.folder):
            data = self._exchange.get(f"{self.folder}/{attempt}/{_INDEX}")
            try:
                told = json.loads(data or b"")
                steps, size = told["reached"]
                if run in ("", told.get("run")):
                    found.append(((int(steps), int(size)), attempt, dict(told["files"])))
            except (ValueError, KeyError, TypeError):
                continue  # of an attempt that was ended before it had sent one whole
        return sorted(found, key=lambda one: one[:2], reverse=True)

    def _brought(self, attempt: str, files: dict[str, Any]) -> bool:
        """Into a folder beside the scratch, which takes its place when all is there and is what the index says."""
        draft = self._scratch.with_name(f".tmp-{self._scratch.name}")
        shutil.rmtree(draft, ignore_errors=True)
        for name, about in files.items():
            if leads_out(name):
                raise PreflowError(f"the exchange {self._exchange.url} names {name!r}, which no stage of ours keeps")
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            there = self._exchange.fetch(f"{self.folder}/{attempt}/{about['sha256']}", target)
            if not there or fingerprint(target) != about:
                shutil.rmtree(draft)
                return False
        shutil.rmtree(self._scratch, ignore_errors=True)
        draft.rename(self._scratch)
        return True


def progress(scratch: Path) -> tuple[int, int]:
    """How far a stage is: steps of the newest checkpoints of all that it trains, then bytes of what grows beside."""
    newest: dict[str, int] = {}
    grown = 0
    for folder, names, files in os.walk(scratch):  # which passes over what is removed meanwhile
        names[:] = [name for name in names if not name.startswith(_LEFT)]
        steps = [int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit()]
        newest[folder] = max(steps, default=0)
        grown += sum(_size(Path(folder, name)) for name in files if name.endswith(GROWING))
    return sum(newest.values()), grown


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _frozen(scratch: Path) -> Iterator[Path]:
    """The scratch folder as it was at one moment between two checkpoints, in links and copies."""
    target = scratch.with_name(f".frozen-{scratch.name}-{secrets.token_hex(4)}")
    try:
        for _ in range(_TRIES):
            shutil.rmtree(target, ignore_errors=True)
            before = progress(scratch)[0]
            try:
                shutil.copytree(scratch, target, copy_function=_link_or_copy, ignore=_left_out)
            except (OSError, shutil.Error):  # what is older than a new checkpoint is removed meanwhile
                continue
            if before == progress(scratch)[0]:
                break
        else:
            raise DependencyDown(f"{scratch.name}: checkpoints come faster than they can be sent; this one is left out")
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _left_out(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(_LEFT)]


def _link_or_copy(source: str, target: str) -> str:
    """What grows as it is now, in whole lines; all else is never changed once it is there."""
    if not source.endswith(GROWING):
        os.link(source, target)
        return target
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: data.rfind(b"\n") + 1])
    return target


def _listed(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
