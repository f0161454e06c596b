"""Stage by stage: which changed from one side to the other, and because of what."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flows.diff.sides import ENVIRONMENT, UNKNOWN, Entry, Side

Reason = dict[str, Any]
MOST_LINES = 8
"""Changed lines of a file that are shown; of more, only how many there are."""


def stages(a: Side, b: Side) -> list[dict[str, Any]]:
    """A record for each stage of either side, in the order of the graph.

    `because` holds what the stage itself reads and what differs there; of what another stage writes only that stage.
    """
    order = [*b.entries, *(name for name in a.entries if name not in b.entries)]
    return [_stage(name, a, b) for name in order]


def causes(found: list[dict[str, Any]]) -> list[Reason]:
    """What differs at the root of it all, each with the stages that read it; what merely follows is left out."""
    roots: dict[tuple[str, str], Reason] = {}
    for stage in found:
        for reason in stage["because"]:
            if reason["kind"] != "upstream":
                own = stage["stage"] if reason["kind"] in ("command", "stage", "machine") else ""
                root = roots.setdefault((reason["kind"], own or reason["what"]), {**reason, "read_by": []})
                root["read_by"].append(stage["stage"])
    order = ("stage", "command", "code", "param", "data", "environment", "machine")
    return sorted(roots.values(), key=lambda reason: (order.index(reason["kind"]), reason["what"]))


def _stage(name: str, a: Side, b: Side) -> dict[str, Any]:
    before, after = a.entries.get(name), b.entries.get(name)
    if before is None or after is None:
        side = b if before is None else a
        word = "added" if before is None else "removed"
        because = [{"kind": "stage", "what": name, "change": f"only in {side.label}"}]
        return {"stage": name, "state": word, "because": because, "outs": []}
    because = list(_because(before, after, a, b))
    changed = [path for path in after.outs if before.outs.get(path, UNKNOWN) != after.outs[path]]
    not_run = [side.label for side, entry in ((a, before), (b, after)) if not entry.outs]
    if not_run:
        state, changed = "not run", []
    elif changed and not because:
        because = [{"kind": "machine", "what": name, "change": "the same inputs gave other bytes"}]
        state = "changed"
    else:
        state = "changed" if changed else "same bytes" if because else "same"
    return {"stage": name, "state": state, "because": because, "outs": changed, "not_run": not_run}


def _because(before: Entry, after: Entry, a: Side, b: Side) -> Iterator[Reason]:
    if before.command != after.command:
        yield {"kind": "command", "what": "dvc.yaml", "a": before.command, "b": after.command}
    for path in sorted(before.code.keys() | after.code.keys()):
        if before.code.get(path) != after.code.get(path):
            if path == ENVIRONMENT:
                yield from _versions(a, b)
            else:
                yield {"kind": "code", "what": path, **_lines(path, a, b)}
    for key in sorted(before.params.keys() | after.params.keys()):
        # What only one side's stage reads, such as the knobs of the algorithm that it has chosen, may be no difference.
        old = before.params[key] if key in before.params else a.param(key)
        new = after.params[key] if key in after.params else b.param(key)
        if old != new:
            yield {"kind": "param", "what": key, "a": old, "b": new}
    makers = {}
    for path in sorted(before.data.keys() | after.data.keys()):
        old, new = before.data.get(path), after.data.get(path)
        maker = b.graph.producer(path) or a.graph.producer(path)
        if old == new:
            continue
        if maker:
            makers[maker] = {"kind": "upstream", "what": maker}
        elif UNKNOWN not in (old, new) or a.kept(path) != b.kept(path):  # not run: what git has is all that is known
            yield {"kind": "data", "what": path, "a": old, "b": new}
    yield from (makers[name] for name in b.graph.stages if name in makers)


def _versions(a: Side, b: Side) -> Iterator[Reason]:
    old, new = (json.loads(side.read(ENVIRONMENT) or b"{}") for side in (a, b))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield {"kind": "environment", "what": name, "a": old.get(name), "b": new.get(name)}


def _lines(path: str, a: Side, b: Side) -> Mapping[str, Any]:
    """How many lines came and went, and which, where they are few."""
    old, new = a.read(path), b.read(path)
    before, after = ((text or b"").decode("utf-8", "replace").splitlines() for text in (old, new))
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:1] in "+-"][2:]
    added = sum(line[0] == "+" for line in changed)
    word = "added" if old is None else "removed" if new is None else "changed"
    return {
        "change": word,
        "added": added,
        "removed": len(changed) - added,
        "lines": changed if len(changed) <= MOST_LINES else [],
    }
