"""Rows in the DVC cache: which of the files that runs wrote hold a row, a person's judgements, or what is of a source.

Outs up to the preferences are rows with their ids. Raw files have none yet, so they are told by the `file` and `line`
that prepared rows carry; what comes later (rollouts, completions) names prompts by id.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.cache import files_of, object_path
from flows.lineage.places import Places
from flows.lineage.runs import Known, module_of
from rlhf.errors import PreflowError
from tasks.config.withdraw import Withdraw
from tasks.lineage import Item

ROW_STAGES = ("prepare", "validate", "annotate")
"""Modules whose outs are rows."""
SUBJECTS = ("row", "annotator", "source", "file")
_ID = re.compile(rb'"(?:id|prompt_id)": "([0-9a-f]{16})"')


@dataclass(frozen=True)
class Wanted:
    """Which rows are asked for: one by its id, or all of an annotator, a source or a file of the inbox."""

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Wanted | None":
        """From "row:ID" and the like; None where it is none of them."""
        kind, sign, value = text.partition(":")
        if not sign or kind not in SUBJECTS:
            return None
        if not value or (kind == "row" and not re.fullmatch(r"[0-9a-f]{16}", value)):
            expected = "the 16 hex digits that a row has as `id`" if kind == "row" else "a name behind the colon"
            raise PreflowError(f"{text}: expected {expected}")
        return cls(kind, value)

    @property
    def text(self) -> str:
        return f"{self.kind}:{self.value}"

    @property
    def withdrawal(self) -> Withdraw:
        """The setting that leaves these rows out."""
        field_of = {"row": "rows", "annotator": "annotators", "source": "sources"}
        return Withdraw(**{field_of[self.kind]: (self.value,)})

    def holds(self, row: Mapping[str, Any]) -> bool:
        if self.kind == "file":
            return str(row.get("file", "")) == self.value
        return bool(self.withdrawal.reason(row))

    @property
    def needle(self) -> bytes:
        """Bytes that a line must have to be looked at."""
        return json.dumps(self.value, ensure_ascii=False)[1:-1].encode()


@dataclass
class Held:
    """What an out of a run holds of the rows that are asked for."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    """md5 of the objects in the cache that hold them."""
    unread: bool = False
    """The cache has not all of its files: there may be more."""


class Finder:
    """Looks each object of the cache through once."""

    def __init__(self, cache: Path, wanted: Wanted) -> None:
        self._cache = cache
        self._wanted = wanted
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._ids: dict[str, frozenset[str]] = {}

    def held(self, run: Known) -> dict[str, Held]:
        """What each out of a run holds, by path; outs that hold nothing are left out."""
        graph, found = run.tree.graph, dict[str, Held]()
        items = [(module_of(graph, stage), item) for stage in run.stages for item in run.tree.outs(stage)]
        items = [(module, item) for module, item in items if not item.is_model]
        for module, item in items:
            if module in ROW_STAGES and not _is_report(item):
                found[item.path] = self._of_rows(item, _asked_groups(found) if module == "annotate" else set())
        rows = [row for one in found.values() for row in one.rows]
        places = {(str(row.get("file")), row.get("line")) for row in rows}
        ids = {str(row["id"]) for row in rows if "id" in row}
        for module, item in items:
            if module == "collect":
                found[item.path] = self._of_raw(item, places)
            elif _is_report(item):
                found[item.path] = self._of_report(item, ids, Places(places))
            elif item.path not in found:
                found[item.path] = self._of_ids(item, ids)
        return {path: one for path, one in found.items() if one.rows or one.files or one.unread}

    def _of_rows(self, item: Item, groups: set[str]) -> Held:
        """Rows that are asked for, and pairs that were sampled for a prompt that is: those of its group."""
        held = Held()
        for name, md5, path in self._files(item):
            if path is None:
                held.unread |= name.endswith(".jsonl")
            elif name.endswith(".jsonl"):
                rows = [*self._matching(md5, path), *_born_of(groups, path)]
                held.rows += [dict(row) | {"in": name} for row in rows]
                held.files |= {md5} if rows else set()
        return held

    def _of_report(self, item: Item, ids: set[str], places: Places) -> Held:
        """What the gate set aside of them, and the files of its report that speak of them."""
        held = Held()
        for name, md5, path in self._files(item):
            if path is None:
                held.unread = True
                continue
            content = path.read_bytes()
            lines = map(json.loads, content.splitlines() if name.endswith(".jsonl") else ())
            aside = [one | {"in": name} for one in lines if one.get("id") in ids]
            held.rows += aside
            if aside or places.are_in(content):
                held.files.add(md5)
        return held

    def _of_raw(self, item: Item, places: set[tuple[str, Any]]) -> Held:
        """Files of the raw data that hold lines of these places."""
        held = Held()
        kind = Path(item.path).name
        for name, md5, path in self._files(item):
            lines = sorted(line for file, line in places if file == f"{kind}/{name}" and line is not None)
            if lines:
                held.rows += [{"file": f"{kind}/{name}", "line": line, "in": name} for line in lines]
                held.files.add(md5)
                held.unread |= path is None
        return held

    def _of_ids(self, item: Item, ids: set[str]) -> Held:
        held = Held()
        for name, md5, path in self._files(item):
            if path is None:
                held.unread |= name.endswith(".jsonl")
            elif name.endswith(".jsonl") and (same := ids & self._ids_in(md5, path)):
                held.rows += [{"id": one, "in": name} for one in sorted(same)]
                held.files.add(md5)
        return held

    def _files(self, item: Item) -> Iterator[tuple[str, str, Path | None]]:
        """Name, md5 and object of every file of an out."""
        if not item.md5.endswith(".dir"):
            yield Path(item.path).name, item.md5, object_path(self._cache, item.md5)
            return
        listing = object_path(self._cache, item.md5)
        if listing is None:
            yield "listing.jsonl", item.md5, None
            return
        md5s = {one["relpath"]: one["md5"] for one in json.loads(listing.read_text(encoding="utf-8"))}
        for name, path in files_of(self._cache, item.md5).items():
            yield name, md5s[name], path

    def _matching(self, md5: str, path: Path) -> list[Mapping[str, Any]]:
        if md5 not in self._rows:
            needle = self._wanted.needle
            with path.open("rb") as lines:
                near = [json.loads(line) for line in lines if needle in line]
            self._rows[md5] = [row for row in near if self._wanted.holds(row)]
        return self._rows[md5]

    def _ids_in(self, md5: str, path: Path) -> frozenset[str]:
        if md5 not in self._ids:
            self._ids[md5] = frozenset(found.decode() for found in _ID.findall(path.read_bytes()))
        return self._ids[md5]


def _is_report(item: Item) -> bool:
    return Path(item.path).name == "report"


def _asked_groups(found: Mapping[str, Held]) -> set[str]:
    """Groups of the prompts among what was found."""
    asked = [one for path, one in found.items() if Path(path).name in ("prompts", "eval")]
    return {str(row["group"]) for one in asked for row in one.rows}


def _born_of(groups: set[str], path: Path) -> list[dict[str, Any]]:
    """Pairs of a file that `annotate` sampled for a prompt of these groups."""
    if not groups:
        return []
    with path.open("rb") as lines:
        near = (json.loads(line) for line in lines if b'"source": "annotate"' in line)
        return [row for row in near if row.get("group") in groups]
