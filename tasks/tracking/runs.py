"""What the tracker knows of a run without MLflow: who runs it, where, its journals, and how far they are shipped.

Files beside the journals of a run, in `<home>/journal/<run>/`: `run.json` (written once), `finish.json` (results),
`mlflow.json` (ids and cursors in MLflow), `shipped` (all is said); until then `begun/` and `ended/`, what it is told of
by (`tasks.tracking.snapshots`).
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rlhf.errors import Busy
from tasks import locks, owners
from tasks.journal import home
from tasks.redact import masked_value
from tasks.tracking.telling import telling

SILENCE = 600.0
"""Seconds after which a run of another machine is over; its locks and followers are touched all the time."""

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Journal:
    """One attempt at one stage."""

    path: Path

    @property
    def name(self) -> str:
        """Stage and attempt, "rl-1"."""
        return self.path.name

    @property
    def stage(self) -> str:
        return self.name.rsplit("-", 1)[0]

    @property
    def attempt(self) -> int:
        return int(self.name.rsplit("-", 1)[1])

    def size(self) -> int:
        """Bytes written so far."""
        events = self.path / "events.jsonl"
        return events.stat().st_size if events.exists() else 0

    def has_ended(self) -> bool:
        """Whether its stage has said its last word."""
        return any(event["event"] == "end" for event in self.read()[0])

    def read(self, offset: int = 0) -> tuple[Events, int]:
        """Events from a byte offset on, and the offset behind the last whole line; a line half written waits."""
        with (self.path / "events.jsonl").open("rb") as file:
            file.seek(offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], offset + len(whole)


@dataclass(frozen=True)
class RunRecord:
    """One pipeline run, or one `dvc repro` typed by hand."""

    root: Path
    run_id: str
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, root: Path, run_id: str) -> Self:
        """From `run.json`; a run by hand has none and is told from the first event of its first stage."""
        path = _folder(root, run_id) / "run.json"
        if not path.exists():
            _adopt(root, run_id)
        return cls(root, run_id, _read_json(path))

    @property
    def folder(self) -> Path:
        return _folder(self.root, self.run_id)

    @property
    def info(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.facts["info"]
        return found

    @property
    def tree(self) -> Path:
        """Where it works: the checkout, which other runs change after it, or a worktree, which may go."""
        return Path(self.info.get("tree") or self.root)

    @property
    def begun(self) -> Path:
        """What describes it, as it was when it began."""
        return self.folder / "begun"

    @property
    def ended(self) -> Path:
        """What describes it, its lock and the small files of what it did, as they were when it ended."""
        return self.folder / "ended"

    @property
    def described(self) -> Path:
        """Where its dvc.yaml and params.yaml are: of one by hand, which nobody announced, in the tree alone."""
        return next((place for place in (self.ended, self.begun) if (place / "dvc.yaml").exists()), self.tree)

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What `finish` was told: results, status, time."""
        path = self.folder / "finish.json"
        return _read_json(path) if path.exists() else None

    def journals(self) -> list[Journal]:
        """In the order in which the stages began."""
        found = [Journal(path.parent) for path in self.folder.glob("*/events.jsonl")]
        return sorted(found, key=_begun)

    def record(self) -> list[Path]:
        """The files that nothing changes any more once the run is over: what it was, and what its stages said.

        A stage that has not said its end may outlive its run and write on.
        """
        own = [self.folder / "run.json", self.folder / "finish.json"]
        for journal in filter(Journal.has_ended, self.journals()):
            own += [journal.path / "events.jsonl", *(journal.path / "files").glob("*")]
        return [path for path in own if path.is_file()]

    def finish(self, results: Mapping[str, Mapping[str, Any]], status: str, commit: str = "") -> None:
        """Keep how the run ended, so that it can be told later too."""
        told = {name: dict(result) for name, result in results.items()}
        facts = {"results": told, "status": status, "commit": commit}
        write_json_atomically(self.folder / "finish.json", facts | {"time": time.time()})

    def is_over(self) -> bool:
        """Finished, or its process is gone: one of another machine is when nothing is heard of it any more."""
        return (self.folder / "finish.json").exists() or is_gone(self.facts["owner"], self._signs_of_life())

    def _signs_of_life(self) -> Iterator[Path]:
        """What its processes write or touch: journals, what is told of them, and the lock of its tree."""
        yield from self.folder.glob("*")
        yield from self.folder.glob("*/events.jsonl")
        for lock in (home(self.root) / "run.lock", home(self.root) / "worktrees" / f"{self.run_id}.lock"):
            if (holder := locks.holder(lock)) and holder.who == f"run {self.run_id}":
                yield lock

    def state(self) -> dict[str, Any]:
        """Ids and cursors in MLflow, `{}` before the first shipment."""
        path = self.folder / "mlflow.json"
        return _read_json(path) if path.exists() else {}

    def save(self, state: Mapping[str, Any]) -> None:
        write_json_atomically(self.folder / "mlflow.json", state)

    @contextmanager
    def exclusive(self, wait: bool) -> Iterator[bool]:
        """One shipper at a time, over all processes; False where another is at it and we do not wait.

        Raises:
            Busy: we did, and it is at it still.
        """
        lock = telling(self.folder / "shipping.lock", f"what MLflow is told of run {self.run_id}", wait)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except Busy:
                if wait:
                    raise
                yield False
            else:
                yield True


def begin(root: Path, run_id: str, info: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
    """Write `run.json`, unless the run has one."""
    path = _folder(root, run_id) / "run.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        told = masked_value(dict(info)) | {"tree": str(info.get("tree") or root)}
        facts = {"info": told, "owner": owner, "begun": time.time()}
        write_json_atomically(path, facts)


def is_gone(owner: Mapping[str, Any], signs: Iterable[Path]) -> bool:
    """Whether the process that must be alive for a run to go on is not. Asked of files where it was elsewhere.

    Where these cannot be read nobody knows, and it goes on.
    """
    alive = owners.is_alive(owner)
    try:
        return owners.silence(signs) > SILENCE if alive is None else not alive
    except OSError:
        return False


def runs_of(root: Path) -> list[RunRecord]:
    """Every run that left something to ship, oldest first. Shipped ones cost one look at the file system."""
    folder = home(root) / "journal"
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    waiting = []
    for name in names:
        if not (folder / name / "shipped").exists():
            with suppress(
                OSError, ValueError, KeyError
            ):  # begun but not written yet, or torn: nothing can be told of it
                waiting.append(RunRecord.read(root, name))
    return sorted(waiting, key=lambda run: float(run.facts["begun"]))


def write_json_atomically(path: Path, value: Any) -> None:
    """All of it or nothing, whenever the power fails."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    fresh.write_text(json.dumps(value, ensure_ascii=False, indent=1, default=str), encoding="utf-8")
    os.replace(fresh, path)


def _adopt(root: Path, run_id: str) -> None:
    """Begin a run that nobody announced: `dvc repro` by hand, or a stage module started alone."""
    folder = _folder(root, run_id)
    starts = [Journal(path.parent).read()[0][:1] for path in folder.glob("*/events.jsonl")]
    first = min((events[0] for events in starts if events), key=lambda event: float(event["time"]), default=None)
    if first is None:
        raise FileNotFoundError(f"run {run_id} has neither run.json nor a journal: nothing can be told of it")
    tree = Path(first["root"])
    command = first["command"]
    begin(root, run_id, {"name": command, "command": command, "tree": str(tree), "by_hand": True}, first["owner"])
    facts = _read_json(folder / "run.json") | {"begun": first["time"]}
    write_json_atomically(folder / "run.json", facts)


def _begun(journal: Journal) -> tuple[float, str]:
    events = journal.path / "events.jsonl"
    with events.open("rb") as file:
        line = file.readline()
    return (json.loads(line)["time"] if line.endswith(b"\n") else time.time(), journal.name)


def _folder(root: Path, run_id: str) -> Path:
    return home(root) / "journal" / run_id


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
