"""Columns that somebody names by hand, held against what there is; and those that nobody reads."""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.config.collect import OURS
from tasks.readers import Raw, read
from tasks.shapes import Content, Malformed, canonical_rows
from tasks.shapes.columns import cells, no_such, renamed

SAMPLE = 50
"""Rows that a file is looked at by, before it is read in earnest."""


def refuse_unknown(columns: Mapping[str, str]) -> None:
    """Raises ConfigError where a name on our side is none of our fields."""
    for ours, theirs in columns.items():
        if ours not in OURS:
            near = get_close_matches(ours, OURS, n=1, cutoff=0.5)
            known = f"did you mean `{near[0]}`?" if near else f"they are: {', '.join(OURS)}"
            raise ConfigError(f"--columns {ours}={theirs}: `{ours}` is none of our fields; {known}")


def refuse_absent(file: Path, columns: Mapping[str, str], present: Collection[str]) -> None:
    """Raises PreflowError where a file has a column neither under their name nor under ours."""
    missing = {f"--columns {ours}": theirs for ours, theirs in columns.items() if not {ours, theirs} & {*present}}
    if missing and present:
        raise PreflowError(f"{file}: {no_such(missing, present)}")


def unused(file: Path, kind: str, columns: Mapping[str, str]) -> list[str]:
    """Columns without which the first rows of a file would come out the same. Names that we know are not among them."""
    used: dict[str, bool] = {}
    for found in islice((one for one in read(file, 1_000_000) if isinstance(one, Raw)), SAMPLE):
        value = renamed(found.value, columns)
        names = [name for name, item in value.items() if name not in (*OURS, "id") and item not in ("", None)]
        whole = _rows(kind, value, found.is_text) if names else []
        for name in names if whole else []:
            without = {key: item for key, item in value.items() if key != name}
            used[name] = used.get(name, False) or _rows(kind, without, found.is_text) != whole
    return [name for name, is_used in used.items() if not is_used]


def _rows(kind: str, value: Mapping[str, Any], is_text: bool) -> list[Content]:
    try:
        found = list(canonical_rows(kind, cells(value) if is_text else value))
    except Malformed:
        return []
    return [row for row in found if not isinstance(row, Malformed)]


def told_unused(names: Sequence[str], kind: str) -> str:
    """What to say of columns that nobody reads; of prompts they may be the answers."""
    text = f"not used: {', '.join(names)}"
    if kind != "prompts":
        return text
    asked = f"chosen={names[0]},rejected={names[1]}" if len(names) == 2 else "completion=COLUMN"
    return f"{text}; if they are answers: --columns {asked}"
