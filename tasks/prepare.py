"""One canonical schema: data/01_raw/<kind>/ in, data/02_prepared/<kind>/rows.jsonl and quarantine/ out.

Every row gets its id, group, source, file, line and split. Splits go by the hash of the group, so no question is on
both sides. Rows that cannot be read or have no known shape are carried to the gate, not dropped; those that params
withdraw are dropped here and counted. Rows are streamed: of those that went by, at most ids are held.
Alone: python -m tasks.prepare --params prepare --raw data/01_raw --out data/02_prepared
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from rlhf.errors import DataRefused
from rlhf.records import Row, content_id, group_of, read_rows, row_line, split_of, write_rows
from tasks.config.prepare import Prepare
from tasks.config.withdraw import Withdraw
from tasks.journal import Log
from tasks.readers import Raw, Rejected, read
from tasks.redact import masked_value, redacted, secret_in, texts_in
from tasks.shapes import KINDS, Content, Malformed, canonical, canonical_rows
from tasks.shapes.columns import absent, cells, no_such, renamed
from tasks.shapes.fields import name_of_group
from tasks.stage import main
from tasks.withdrawn import reason, source_of

ANSWERED = ("demonstrations", "preferences", "ratings")
"""Kinds whose rows hold a question and answers to it."""
MOST_GROWTH = 10
"""Times prepare.max_row_bytes that the rows of one line may take together."""
NONE = Withdraw()
Left = Callable[[Iterable[Row], str, Mapping[str, Any]], Iterator[Row]]
"""Of rows of a kind, and the line they are of, those that are not withdrawn."""


def prepare(config: Prepare, *, withdraw: Withdraw = NONE, raw: Path, out: Path, log: Log) -> None:
    """Write canonical rows of every kind.

    Where no prompts came, they are the questions of the other kinds. Prompts whose group falls in the split `eval` join
    the evaluation prompts that came (none do with an `eval_share` of 0). Raises DataRefused where a column that was
    named for a file is not in it.
    """
    shares = {"eval": config.eval_share, "val": config.val_share, "train": 1 - config.eval_share - config.val_share}
    counts = dict.fromkeys([*KINDS, "refused", "withdrawn"], 0)
    (out / "quarantine").mkdir(parents=True, exist_ok=True)
    with (out / "quarantine" / "quarantine.jsonl").open("w", encoding="utf-8", newline="\n") as quarantine:

        def refuse(row: Row) -> None:
            gone = bool(withdraw.reason(row))
            counts["withdrawn" if gone else "refused"] += 1
            if not gone:
                quarantine.write(row_line(row))

        def left(rows: Iterable[Row], kind: str, value: Mapping[str, Any]) -> Iterator[Row]:
            for row in rows:
                gone = bool(reason(withdraw, kind, row, value))
                counts["withdrawn"] += gone
                if not gone:
                    yield row

        for kind in ("corpus", *ANSWERED, "prompts", "eval"):
            rows = _rows(kind, raw / kind, config.max_row_bytes, shares, refuse, left)
            if kind == "eval":
                rows = left(_joined(rows, out / "prompts"), kind, {})
            counts[kind] = write_rows(out / kind / "rows.jsonl", rows)
            if kind == "prompts" and not counts[kind]:
                asked = map(_asked, chain.from_iterable(read_rows(out / answered) for answered in ANSWERED))
                counts[kind] = write_rows(out / kind / "rows.jsonl", left(_questions(kind, asked), kind, {}))
    log({f"prepare/{kind}": count for kind, count in counts.items()}, 0)


def _rows(
    kind: str, folder: Path, max_bytes: int, shares: dict[str, float], refuse: Callable[[Row], None], left: Left
) -> Iterator[Row]:
    """All rows of one kind that are `left`; what could not become one goes to `refuse`."""
    origins = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    for name in sorted(origins):
        place = {"source": origins[name]["name"], "file": f"{kind}/{name}"}
        columns: dict[str, str] = origins[name].get("columns", {})
        seen: set[str] = set()
        for found in read(folder / name, max_bytes):
            here = place | {"line": found.line}
            if isinstance(found, Rejected):
                refuse(_refusal(kind, here, found.rule, found.reason, found.excerpt))
                continue
            if columns:
                seen.update(found.value)
            value, contents = _contents(kind, found, columns)
            for content in _within(contents, MOST_GROWTH * max_bytes):
                if isinstance(content, Malformed):
                    refuse(_refusal(kind, here, content.rule, str(content), json.dumps(value, ensure_ascii=False)))
                else:
                    yield from left([_placed(kind, content, here, value, shares)], kind, value)
        if seen and (missing := absent(kind, columns, seen)):
            named = {f"collect.columns.{ours}": columns[ours] for ours in missing}
            raise DataRefused(f"{kind}/{name}: {no_such(named, seen)}")


def _contents(
    kind: str, found: Raw, columns: Mapping[str, str]
) -> tuple[dict[str, Any], Iterable[Content | Malformed]]:
    """A line under our names, and the rows it gives, made one by one."""
    value = renamed(found.value, columns) if columns else found.value
    try:
        name_of_group(value)
        return value, canonical_rows(kind, cells(value) if found.is_text else value)
    except Malformed as error:
        return value, [error]


def _within(contents: Iterable[Content | Malformed], most: int) -> Iterator[Content | Malformed]:
    """The rows of one line, as far as they hold no more than `most` characters: a long question with many answers is
    written out with each."""
    size = 0
    for content in contents:
        if not isinstance(content, Malformed):
            size += sum(len(message["content"]) for message in content.get("messages", []))
        if size > most:
            yield Malformed(
                f"written out, the rows of this line have more than {most} characters; the rest is left out"
            )
            return
        yield content


def _placed(kind: str, content: Content, place: Row, value: Mapping[str, Any], shares: dict[str, float]) -> Row:
    """The row with its provenance. A line that knows better what belongs together sets `group` itself, and one that
    knows where it is from adds its `source` to that of the file."""
    group = name_of_group(value)
    if not group:
        group = group_of(content.get("messages") or [{"role": "document", "content": content["text"]}])
    place = place | {"source": source_of(place["source"], value)}
    split = "eval" if kind == "eval" else split_of(group, shares)
    row = content | place | {"id": content_id(content), "group": group, "split": split}
    secret = secret_in("\n".join(texts_in(row)))
    if secret is None:
        return row
    # From here on no file has it; the gate is told of what kind it was.
    return masked_value(row) | {"id": content_id(masked_value(content)), "secret": secret}


def _asked(row: Row) -> Row:
    """An answered row without what is known of its answers alone: the same question is the same prompt."""
    return row if "verifier" in row.get("meta", {}) else {key: item for key, item in row.items() if key != "meta"}


def _questions(kind: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The questions of other rows, each once, at the place where it was first asked."""
    seen: set[int] = set()  # ids as numbers, which take half the memory of their digits
    for row in rows:
        content = canonical(kind, row)
        identity = content_id(content)
        if (number := int(identity, 16)) not in seen:
            seen.add(number)
            place = {key: row[key] for key in ("source", "file", "line", "group", "split")}
            yield content | place | {"id": identity}


def _joined(given: Iterable[Row], prompts: Path) -> Iterator[Row]:
    """Evaluation prompts that came, then those that are set apart from the prompts."""
    seen = set()
    for row in given:
        seen.add(row["id"])
        yield row
    set_apart = _questions("eval", (row for row in read_rows(prompts) if row["split"] == "eval"))
    yield from (row for row in set_apart if row["id"] not in seen)


def _refusal(kind: str, place: Row, rule: str, reason: str, excerpt: str) -> Row:
    """What is shown is looked through for secrets before it is cut: half a key has no form that could be known."""
    return place | {"kind": kind, "rule": rule, "reason": redacted(reason), "excerpt": redacted(excerpt[:4000])[:200]}


if __name__ == "__main__":
    main(prepare)
