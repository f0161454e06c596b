"""Columns under names of their own, and cells of a table, which are all texts."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tasks.readers.found import Rejected
from tasks.readers.parsing import parse
from tasks.shapes.fields import Malformed, Value

_ASKED = {"messages", "system", "prompt", "instruction", "input", "question"}
_NEEDED = {
    "corpus": {"messages", "text"},
    "demonstrations": {*_ASKED, "completion", "output", "response"},
    "preferences": {
        *_ASKED, "chosen", "rejected", "completions", "ranks", "scores", "score_chosen", "score_rejected", "margin",
        "confidence", "turn", "annotator",
    },
    "prompts": {*_ASKED, "answer", "verifier", "pool"},
    "eval": {*_ASKED, "answer", "verifier"},
    "ratings": {*_ASKED, "completion", "output", "response", "label"},
}  # fmt: skip
"""Columns that a kind of data must have where a mapping names them; one mapping may serve files of several kinds. All
must have `group`: without it rows that belong together would be split."""
_JSON = ("messages", "completions", "ranks", "scores", "meta", "constraints", "tests")
_NUMBERS = ("margin", "score_chosen", "score_rejected", "confidence", "turn")
_MAY_BE_EMPTY = ("prompt", "completion", "output", "response", "chosen", "rejected", "text", "instruction", "question")


def renamed(value: Value, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with their columns under our names; a column that is not there leaves its field alone."""
    theirs = set(columns.values())
    found = {name: item for name, item in value.items() if name not in theirs}
    return found | {ours: value[name] for ours, name in columns.items() if name in value}


def absent(kind: str, columns: Mapping[str, str], seen: Iterable[str]) -> list[str]:
    """Fields that this kind of data needs and whose column no row has, under their name or ours."""
    present = set(seen)
    return [
        ours
        for ours, theirs in columns.items()
        if (ours == "group" or ours in _NEEDED[kind]) and theirs not in present and ours not in present
    ]


def no_such(missing: Mapping[str, str], present: Collection[str]) -> str:
    """What to say of columns that are not there: each with its nearest name, then all that there are.

    `missing` has them by what named them: `{"--columns chosen": "beter"}`.
    """
    told = []
    for named_by, theirs in missing.items():
        near = get_close_matches(theirs, present, n=1, cutoff=0.5)
        told.append(f"`{theirs}` ({'; nearest: '.join([named_by, *(f'`{name}`' for name in near)])})")
    return f"there is no column {', '.join(told)}; the file has {', '.join(sorted(present))}"


def cells(value: Value) -> dict[str, Any]:
    """A row of texts with its numbers as numbers and its lists as lists. An empty cell is a field that is not there,
    where an empty text would say nothing. Raises Malformed."""
    found: dict[str, Any] = {}
    for name, cell in value.items():
        if cell == "" and name not in _MAY_BE_EMPTY:
            continue
        found[name] = _json(name, cell) if name in _JSON else _number(name, cell) if name in _NUMBERS else cell
    return found


def _json(name: str, cell: str) -> Any:
    found = parse(b'{"cell": %b}' % cell.encode("utf-8"), 1)
    if isinstance(found, Rejected):
        raise Malformed(f"{name}: expected JSON in this cell, {found.reason}")
    return found.value["cell"]


def _number(name: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        raise Malformed(f"{name}: expected a number, found {cell[:40]!r}") from None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
