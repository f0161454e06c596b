"""Whether a retrain is due: what it would read now, against what the last one read.

Data are the files of data/inbox and the sources that params name, by sha256; then parameters and code. Files whose size
and time have not changed are not read again, so that an answer takes a second or two.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows import workspace
from flows.profiles import Resolved
from tasks.graph import digest
from tasks.journal import home
from tasks.tracking.runs import write_json_atomically

_SHOWN = 3


@dataclass(frozen=True)
class Seen:
    """What a retrain reads, by name and digest."""

    data: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Memory:
    """What is kept of the last retrain, in `.preflow/retrain/<name>.json`."""

    seen: dict[str, Any] = field(default_factory=dict)
    """A `Seen`; empty before the first retrain, and after one that is to be tried again."""
    files: dict[str, Any] = field(default_factory=dict)
    """By path in data/inbox: size, time in nanoseconds, sha256."""
    run: str = ""
    outcome: str = ""
    """What came of it, in a sentence."""
    asked: float = 0.0
    """When it was last asked whether one is due, or the last one ended, in seconds since 1970: covers earlier slots."""
    waits: dict[str, Any] = field(default_factory=dict)
    """A run that waits for a person: `run`, `flow_run` (its id in Prefect, or ""), `until` (seconds since 1970)."""

    @classmethod
    def read(cls, root: Path, name: str) -> "Memory":
        path = path_of(root, name)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def save(self, root: Path, name: str) -> None:
        path_of(root, name).parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path_of(root, name), asdict(self))


def path_of(root: Path, name: str) -> Path:
    return home(root) / "retrain" / f"{name}.json"


def names(root: Path) -> list[str]:
    """Retrains that this checkout remembers."""
    return sorted(path.stem for path in (home(root) / "retrain").glob("*.json"))


def waits(root: Path) -> list[dict[str, Any]]:
    """Records of runs that wait, or waited, for a person."""
    return [found for name in names(root) if (found := Memory.read(root, name).waits)]


def settle(root: Path, run: str, outcome: str) -> None:
    """A run has been decided on: nobody waits for that any more."""
    for name in names(root):
        memory = Memory.read(root, name)
        if memory.waits.get("run") == run:
            memory.waits, memory.outcome = {}, outcome
            memory.save(root, name)


def look(root: Path, resolved: Resolved, memory: Memory) -> Seen:
    """What a run of this configuration would read now; `memory.files` is brought up to date."""
    own = {str(source["target"]): str(source["sha256"]) for source in resolved.values.get("sources") or ()}
    inbox = {} if resolved.own_sources else _inbox(root / "data" / "inbox", memory)
    brought = {path for path in inbox if any(path == target or path.startswith(f"{target}/") for target in own)}
    params = {key: json.dumps(value, default=str) for key, value in _leaves(resolved.values) if key != "sources"}
    graph = {"graph": digest(resolved.dvc_yaml)} if resolved.dvc_yaml else {}
    code = workspace.code(root, leaving_out=("params.yaml", "profiles"))
    return Seen({**{path: inbox[path] for path in inbox if path not in brought}, **own}, params, {**code, **graph})


def why(now: Seen, before: Mapping[str, Any]) -> str:
    """What changed, in words; "" where nothing did."""
    if not before:
        return "the first retrain here"
    told = [_changed(what, getattr(now, what), before[what]) for what in ("data", "params", "code")]
    return "; ".join(filter(None, told))


def _changed(what: str, now: Mapping[str, str], before: Mapping[str, str]) -> str:
    new, gone = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    other = sorted(key for key in now.keys() & before.keys() if now[key] != before[key])
    parts = [f"{word} {_some(keys)}" for word, keys in (("new:", new), ("changed:", other), ("gone:", gone)) if keys]
    return f"{what} {', '.join(parts)}" if parts else ""


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _inbox(inbox: Path, memory: Memory) -> dict[str, str]:
    known, memory.files = memory.files, {}
    for path in sorted(inbox.rglob("*")):
        name = path.relative_to(inbox).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts) and name != "sources.json":
            about = [path.stat().st_size, path.stat().st_mtime_ns]
            same = name in known and known[name][:2] == about
            memory.files[name] = [*about, known[name][2] if same else digest(path)]
    return {name: about[2] for name, about in memory.files.items()}


def _leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, values
