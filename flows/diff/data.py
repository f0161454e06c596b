"""Which files of the data differ, and how many rows came, went or were changed, as far as the DVC cache has them.

Files are told by `origin.json`, which the stage that brings data in writes beside them; rows by `rows.jsonl`, which the
next one writes: an `id` that is a hash of the row's content, and the `file` and `line` that it stood in.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.diff.sides import Side

ORIGIN = "origin.json"
ROWS = "rows.jsonl"
INBOX = "data/inbox"
LISTING = "sources.json"
Rows = Mapping[str, Mapping[str, int]]
"""Line by row id, by file."""


def files(a: Side, b: Side) -> list[dict[str, Any]]:
    """Data files that are not the same on both sides, each with its rows; what the cache lacks is None."""
    found = []
    for out in _folders(a, b, ORIGIN):
        old, new = (_origins(side, out) for side in (a, b))
        rows = _rows_out(a, b, out)
        before, after = (_rows(side, rows) if rows else None for side in (a, b))
        for name in sorted({*(old or ()), *(new or ())}):
            path = f"{Path(out).name}/{name}"
            counts = _count(path, before, after)
            same = old is not None and new is not None and old.get(name) == new.get(name)
            if same and (counts is None or not any(counts[key] for key in ("added", "removed", "changed"))):
                continue
            word = "added" if not old or name not in old else "removed" if not new or name not in new else "changed"
            origin = (new or {}).get(name) or (old or {}).get(name) or {}
            found.append({"file": path, "change": word, "source": origin.get("name", ""), "rows": counts})
        if old is None or new is None:
            lacks = a if old is None else b
            found.append({"file": out, "change": "unknown", "source": "", "rows": None, "lacks": lacks.label})
    return found


def brought(a: Side, b: Side, folder: str) -> list[dict[str, Any]]:
    """Files of a folder that no stage writes and that differ: of the inbox, else of what git knows."""
    old, new = (_inbox(side) if folder == INBOX else dict(side.kept(folder)) for side in (a, b))
    words = {path: "added" if path not in old else "removed" if path not in new else "changed" for path in old | new}
    return [{"file": path, "change": word} for path, word in sorted(words.items()) if old.get(path) != new.get(path)]


def _inbox(side: Side) -> dict[str, Any]:
    """sha256 by path of what lay in the inbox, as its reader has noted; of a working tree, what lies there."""
    if not side.commit:
        kept = {path.removeprefix(f"{INBOX}/"): sha256 for path, sha256 in side.kept(INBOX).items()}
        return {path: sha256 for path, sha256 in kept.items() if path != LISTING}
    notes = [_origins(side, out) or {} for out in side.outs]
    origins = [one for note in notes for one in note.values() if str(one["origin"]).startswith("inbox/")]
    return {one["origin"].removeprefix("inbox/"): one["sha256"] for one in origins if "sha256" in one}


def _folders(a: Side, b: Side, name: str) -> Iterator[str]:
    """Outputs of either side that differ and are one folder with a file of this name."""
    for out in dict.fromkeys([*b.outs, *a.outs]):
        differs = out in a.outs and out in b.outs and a.outs[out] != b.outs[out]
        if differs and any(side.made(f"{out}/{name}") is not None for side in (a, b)):
            yield out


def _origins(side: Side, out: str) -> dict[str, Any] | None:
    text = side.made(f"{out}/{ORIGIN}")
    return None if text is None else json.loads(text)


def _rows_out(a: Side, b: Side, out: str) -> str:
    """The first output of the same kind that holds its rows with their ids."""
    kind = Path(out).name
    return next((one for one in _folders(a, b, ROWS) if Path(one).name == kind), "")


def _rows(side: Side, out: str) -> dict[str, dict[str, int]] | None:
    text = side.made(f"{out}/{ROWS}")
    if text is None:
        return None
    found: dict[str, dict[str, int]] = {}
    for line in filter(None, text.decode().split("\n")):
        row = json.loads(line)
        found.setdefault(row["file"], {})[row["id"]] = int(row["line"])
    return found


def _count(path: str, old: Rows | None, new: Rows | None) -> dict[str, int] | None:
    """By content: a row that has moved is the same. One that was replaced at its line is changed, not come and gone."""
    if old is None or new is None:
        return None
    before, after = old.get(path, {}), new.get(path, {})
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    changed = len({after[one] for one in added} & {before[one] for one in removed})
    return {
        "added": len(added) - changed,
        "removed": len(removed) - changed,
        "changed": changed,
        "same": len(after.keys() & before.keys()),
    }
