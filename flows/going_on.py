"""Runs that go on in a project and how far they are, by their locks and journals; nobody is asked."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.guards import is_held
from flows.progress import Progress
from flows.runner import last_event
from tasks import locks
from tasks.journal import home

_ATTEMPT = re.compile(r"(.+)-\d+")


@dataclass(frozen=True)
class At:
    """A stage at work; steps done and of how many, 0 of 0 before the first."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Going:
    """What holds a tree: a run, or a command that keeps runs out ("withdraw source:forum")."""

    what: str
    """ "run 20261128-193000-ab12, process 7 on host", as its lock says."""
    in_checkout: bool
    """False for a run in a worktree of its own."""
    at: tuple[At, ...]
    after: str
    """The stage that ended last; "" before one has."""

    def told(self) -> dict[str, Any]:
        return asdict(self)


def going_on(root: Path) -> list[Going]:
    """All of this project, the checkout's own first."""
    own = home(root) / "run.lock"
    locks = [own, *sorted((home(root) / "worktrees").glob("*.lock"))]
    return [_going(root, lock, lock == own) for lock in locks if lock.exists() and is_held(lock)]


def _going(root: Path, lock: Path, in_checkout: bool) -> Going:
    holder = locks.holder(lock)
    run = holder.who.removeprefix("run ") if holder else lock.stem
    attempts = _newest(home(root) / "journal" / run)
    ended = [stage for stage, folder in attempts.items() if last_event(folder, "end") is not None]
    at = tuple(_at(stage, folder.parent) for stage, folder in attempts.items() if stage not in ended)
    return Going(holder.name if holder else run, in_checkout, at, ended[-1] if ended else "")


def _newest(journals: Path) -> dict[str, Path]:
    """The last attempt at each stage of a run, in the order in which they last said something."""
    newest: dict[str, Path] = {}
    for path in sorted(journals.glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime):
        if match := _ATTEMPT.fullmatch(path.parent.name):
            newest.pop(match[1], None)
            newest[match[1]] = path.parent
    return newest


def _at(stage: str, journals: Path) -> At:
    progress = Progress(stage, journals)
    progress.read()
    return At(stage, progress.done, progress.total)
