"""Delete what holds withdrawn rows: objects of the DVC cache and of remotes that are folders, and copies for people.

Models that were trained on the rows are not deleted: they are named, and whoever serves them decides. Git holds no
rows but the champion's answers to evaluation prompts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import dvc, objects
from flows.again import md5_of
from flows.lineage.facts import Facts
from flows.lineage.places import Places
from flows.lineage.runs import Known, checkout
from tasks import sums
from tasks.journal import home
from tasks.tracking.store import name_of, uri_of

_TEXTS = (".json", ".jsonl", ".html", ".csv", ".txt", ".md", ".log")
_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@dataclass
class Purged:
    """What was deleted, and what was not."""

    cached: int = 0
    """Objects of the DVC cache."""
    remote: dict[str, int] = field(default_factory=dict)
    """Objects of each remote that is a folder."""
    files: list[str] = field(default_factory=list)
    """Outs in checkouts, journals, reports and MLflow's artifacts."""
    needed: list[str] = field(default_factory=list)
    """Raw files that the new version of the data needs, as they hold other rows too."""
    by_hand: list[str] = field(default_factory=list)
    """What a person has to delete."""


def lost(facts: Facts) -> dict[str, list[str]]:
    """Runs whose data holds the rows, which a purge keeps from being run again, with their registered versions."""
    names = [run.name for run, _ in facts.reached if run.ref]
    return {name: [one.label for one, _ in facts.versions if one.run == name] for name in names}


def purge(root: Path, facts: Facts) -> Purged:
    """Delete it. Call it after the data was made anew, while no run can begin (`objects.nobody_else`)."""
    cache, here = dvc.cache(root), checkout(root)
    holding = {md5 for _, held in facts.held for one in held.values() for md5 in one.files}
    needed = _files_needed(cache, here) & holding
    gone = holding - needed
    done = Purged(needed=_names_of(facts, needed), by_hand=_inbox(root, facts))
    traces = _Traces(facts)
    work = [home(root) / "scratch", home(root) / "shared"]
    outs = [*_outs_in_trees(root, gone), *_copies(work, traces)]  # found while links into the cache still lead there
    records = list(_copies(_records(root), traces))
    done.cached = objects.remove(cache, gone)
    objects.forget_runs(cache, {item.md5 for run, reached in facts.reached for item in _outs(run, reached)})
    for name, place in objects.remotes(root).items():
        if isinstance(place, Path):
            done.remote[name] = objects.remove(place, gone)
        else:
            done.by_hand += [f"{place}/files/md5/{md5[:2]}/{md5[2:]} of remote {name}" for md5 in sorted(gone)]
    for path in outs:
        path.unlink(missing_ok=True)
    for path in records:
        sums.withdraw(path)
    for path in (*outs, *records):
        done.files.append(str(path.relative_to(root)) if path.is_relative_to(root) else str(path))
    if not uri_of(root).startswith("sqlite:///"):
        done.by_hand.append(f"tables and reports of these runs in the artifacts of MLflow at {name_of(root)}")
    return done


def _files_needed(cache: Path, here: Known | None) -> set[str]:
    """Digests of all files that the checkout's own stages wrote."""
    return objects.whole(cache, {item.md5 for item in here.outs.values()}) if here else set()


def _outs(run: Known, reached: Mapping[str, Any]) -> Iterator[Any]:
    return (one.item for one in reached.values() if one.word == "holds")


def _names_of(facts: Facts, md5s: set[str]) -> list[str]:
    found = {path for _, held in facts.held for path, one in held.items() if one.files & md5s}
    return sorted(found)


def _inbox(root: Path, facts: Facts) -> list[str]:
    """Files that a person gave and that still hold rows."""
    lines: dict[str, list[int]] = {}
    for row in facts.rows.values():
        lines.setdefault(str(row.get("file", "")), []).append(int(row.get("line") or 0))
    found = []
    for name, numbers in sorted(lines.items()):
        kind, _, file = name.partition("/")
        for path in (root / "data/inbox" / kind / file, root / "data/inbox/given" / kind / file):
            if path.is_file():
                shown = ", ".join(map(str, sorted(numbers)[:10])) + (" …" if len(numbers) > 10 else "")
                found.append(f"{path.relative_to(root)} and where it came from, line {shown}")
    return found


def _outs_in_trees(root: Path, gone: set[str]) -> Iterator[Path]:
    """Copies that were checked out, in this tree and in worktrees of runs."""
    for tree in [root, *sorted((home(root) / "worktrees").glob("*/"))]:
        for path in sorted((tree / "data").glob("[01]*/**/*")):
            if path.is_file() and md5_of(path) in gone:
                yield path


def _records(root: Path) -> list[Path]:
    """Where runs are told of: journals, reports, MLflow's artifacts."""
    uri = uri_of(root)
    artifacts = [Path(uri.removeprefix("sqlite:///")).parent / "artifacts"] if uri.startswith("sqlite:///") else []
    return [home(root) / "journal", root / "reports", *artifacts]


def _copies(folders: Sequence[Path], traces: "_Traces") -> Iterator[Path]:
    """Files in these folders that speak of one of the rows."""
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_file() and path.suffix in _TEXTS and path.name != "events.jsonl" and traces.are_in(path):
                yield path


class _Traces:
    """How a file shows that it holds a row: its id, its file and line, or all that it says as texts of its own."""

    def __init__(self, facts: Facts) -> None:
        rows = list(facts.rows.values())
        everywhere = [row for _, held in facts.held for one in held.values() for row in one.rows if row.get("file")]
        self._ids = {str(row["id"]).encode() for row in rows}
        self._places = Places((str(row["file"]), row.get("line")) for row in everywhere)  # one may move between runs
        self._texts = [texts for row in rows if len(texts := _texts(row)) > 1]

    def are_in(self, path: Path) -> bool:
        with suppress(OSError):
            content = path.read_bytes()
            if self._ids & set(_ID.findall(content)) or self._places.are_in(content):
                return True
            if path.suffix in (".json", ".jsonl"):
                strings = set(_STRING.findall(content))
                return any(all(one & strings for one in texts) for texts in self._texts)
        return False


def _texts(row: Mapping[str, Any]) -> list[set[bytes]]:
    """The question and the answers of a row, each in both ways that JSON may write it."""
    last = [str(row["messages"][-1]["content"])] if row.get("messages") else []
    said = [*last, *(str(row[key]) for key in ("chosen", "rejected", "completion", "text") if row.get(key))]
    return [{json.dumps(text, ensure_ascii=plain)[1:-1].encode() for plain in (True, False)} for text in said]
