"""One canonical schema: data/01_raw/<kind>/ in, data/02_prepared/<kind>/rows.jsonl and quarantine/ out.

Every row gets its id, group, source, file, line and split. Splits go by the hash of the group, so no question is on
both sides. Rows that cannot be read or have no known shape are carried to the gate, not dropped.
Alone: python -m tasks.prepare --params prepare --raw data/01_raw --out data/02_prepared
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf.records import Row, content_id, group_of, split_of, write_rows
from tasks.config.prepare import Prepare
from tasks.journal import Log
from tasks.readers import Rejected, read
from tasks.redact import redacted
from tasks.shapes import KINDS, Malformed, canonical
from tasks.stage import main


def prepare(config: Prepare, *, raw: Path, out: Path, log: Log) -> None:
    """Write canonical rows of every kind.

    Where no prompts came, they are the questions of the other kinds. Prompts whose group falls in the split `eval` join
    the evaluation prompts that came (none do with an `eval_share` of 0).
    """
    shares = {"eval": config.eval_share, "val": config.val_share, "train": 1 - config.eval_share - config.val_share}
    rows: dict[str, list[Row]] = {}
    refused: list[Row] = []
    for kind in KINDS:
        rows[kind], bad = _read_kind(kind, raw / kind, config.max_row_bytes, shares)
        refused += bad
    if not rows["prompts"]:
        rows["prompts"] = _questions("prompts", rows["demonstrations"] + rows["preferences"])
    set_apart = _questions("eval", (row for row in rows["prompts"] if row["split"] == "eval"))
    given = {row["id"] for row in rows["eval"]}
    rows["eval"] += [row for row in set_apart if row["id"] not in given]
    for kind in KINDS:
        write_rows(out / kind / "rows.jsonl", rows[kind])
    write_rows(out / "quarantine" / "quarantine.jsonl", refused)
    log({f"prepare/{kind}": len(rows[kind]) for kind in KINDS} | {"prepare/refused": len(refused)}, 0)


def _read_kind(kind: str, folder: Path, max_bytes: int, shares: dict[str, float]) -> tuple[list[Row], list[Row]]:
    """All rows of one kind, and what could not become one."""
    origins = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    rows: list[Row] = []
    refused: list[Row] = []
    for name in sorted(origins):
        place = {"source": origins[name]["name"], "file": f"{kind}/{name}"}
        for found in read(folder / name, max_bytes):
            if isinstance(found, Rejected):
                refused.append(_refusal(kind, place, found.line, "readable", found.reason, found.excerpt))
                continue
            try:
                content = canonical(kind, found.value)
            except Malformed as error:
                excerpt = json.dumps(found.value, ensure_ascii=False)
                refused.append(_refusal(kind, place, found.line, "shape", str(error), excerpt))
                continue
            rows.append(_placed(kind, content, place | {"line": found.line}, found.value, shares))
    return rows, refused


def _placed(kind: str, content: Row, place: Row, value: dict[str, Any], shares: dict[str, float]) -> Row:
    """The row with its provenance. A reader that knows better what belongs together sets `group` itself."""
    group = value.get("group")
    if not isinstance(group, str) or not group:
        group = group_of(content.get("messages") or [{"role": "document", "content": content["text"]}])
    split = "eval" if kind == "eval" else split_of(group, shares)
    return content | place | {"id": content_id(content), "group": group, "split": split}


def _questions(kind: str, rows: Iterable[Row]) -> list[Row]:
    """The questions of other rows, each once, at the place where it was first asked."""
    found: dict[str, Row] = {}
    for row in rows:
        content = canonical(kind, row)
        identity = content_id(content)
        place = {key: row[key] for key in ("source", "file", "line", "group", "split")}
        found.setdefault(identity, content | place | {"id": identity})
    return list(found.values())


def _refusal(kind: str, place: Row, line: int, rule: str, reason: str, excerpt: str) -> Row:
    return {
        "kind": kind,
        "source": place["source"],
        "file": place["file"],
        "line": line,
        "rule": rule,
        "reason": redacted(reason),
        "excerpt": redacted(excerpt[:200]),
    }


if __name__ == "__main__":
    main(prepare)
