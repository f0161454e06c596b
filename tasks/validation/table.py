"""The table that the suites judge: one line a row, then one a reject, as many columns as there are facts.

Rows are gone through once, some hundreds at a time, and only numbers and short texts of them are kept; pairs are gone
through again for what their words say of triggers and swapped labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlhf.records import Row
from tasks.validation import labels, words
from tasks.validation.context import Context, chunks, spoken
from tasks.validation.facts import COLUMNS, NUMBERS, facts_of, tidy
from tasks.validation.overlap import MINIMA, NGRAM, SHINGLE, Words, nearly_the_same, number_of, runs, signatures
from tasks.validation.personal import pseudonym
from tasks.validation.profile import drift, profile


@dataclass(slots=True)
class Table:
    """Facts, and of every row where it stands and what it is compared by."""

    kind: str
    facts: Any = None  # a pandas table
    files: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    lines: list[int | None] = field(default_factory=list)
    annotators: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)

    def place(self, position: int) -> str:
        """`file:line` of a row."""
        return f"{self.files[position]}:{self.lines[position]}"


def tabulate(
    kind: str, rows: Iterable[Row], rejects: Sequence[Row], context: Context, reference: Mapping[str, Any]
) -> Table:
    """The table of one kind. `rows` may be gone through several times; `reference` is a profile, or empty."""
    table, counted, vocabulary = Table(kind), words.Words(), Words()
    parts: list[Any] = []
    keys, signed = bytearray(), bytearray()  # of arrays: they grow in place, joined ones would be there twice
    known: dict[str, str] = {}
    for chunk in chunks(rows):
        facts = [facts_of(kind, row) for row in chunk]
        fit = [index for index, found in enumerate(facts) if "shape" not in found]
        texts = vocabulary.of([spoken(kind, chunk[index]) for index in fit])
        if kind != "eval":
            _mark_leaks(kind, [chunk[index] for index in fit], [facts[index] for index in fit], context, texts)
        signature: NDArray[np.uint32] = np.full((len(chunk), MINIMA), 0xFFFFFFFF, np.uint32)
        signature[fit] = signatures(*runs(*texts, SHINGLE), len(fit))
        signed += signature.tobytes()
        key: NDArray[np.uint64] = np.zeros((len(chunk), len(_KEYS)), np.uint64)
        for index in fit:
            key[index] = _keys(kind, chunk[index])
            if kind == "preferences":
                counted.add(*_labelled(chunk[index]), str(chunk[index].get("group")))
        keys += key.tobytes()
        parts.append(_frame(kind, facts))
        for row in chunk:
            for column, name in zip((table.files, table.sources, table.splits, table.annotators), _PLACE):
                value = _name(row, name) if name == "annotator" else str(row.get(name, "?"))
                column.append(known.setdefault(value, value))
            table.lines.append(row.get("line"))
    refused = [{_column(kind, row["rule"]): row["reason"]} for row in rejects]
    parts.append(_frame(kind, refused))
    table.facts = pd.concat(parts, ignore_index=True)
    parts.clear()
    table.facts.insert(0, "row", range(len(table.facts)))
    if keys:
        _mark_repeats(
            table, np.frombuffer(keys, np.uint64).reshape(-1, len(_KEYS)).T,
            np.frombuffer(signed, np.uint32).reshape(-1, MINIMA),
        )  # fmt: skip
        if kind == "preferences":
            _mark_words(table, rows, counted)
    table.profile = profile(table.facts.iloc[: len(table.sources)], table.sources, _counts(table.splits))
    if "drift" in table.facts and reference:
        table.facts["drift"] = drift(table.profile, reference)
    return table


_PLACE = ("file", "source", "split", "annotator")
_KEYS = ("identity", "group", "context", "chosen", "rejected", "fit")


def _frame(kind: str, facts: Sequence[Mapping[str, Any]]) -> Any:
    """A table with all columns of the kind, numbers as numbers."""
    columns = {
        name: np.array([row.get(name) for row in facts], dtype=float if name in NUMBERS else object)
        for name in COLUMNS[kind]
    }
    return pd.DataFrame(columns)


def _column(kind: str, rule: str) -> str:
    """The column for what kept a line from being a row."""
    return "unreadable" if rule == "readable" else rule if rule in COLUMNS[kind] else "shape"


def _keys(kind: str, row: Row) -> tuple[int, ...]:
    """`_KEYS` of one row; the last is 1, which tells it from one that could not be read."""
    context = number_of(*(part for one in row.get("messages", []) for part in (one["role"], tidy(one["content"]))))
    context = context if "messages" in row else number_of(tidy(row["text"]))
    chosen = rejected = 0
    if kind == "preferences":
        chosen, rejected = number_of(tidy(row["chosen"])), number_of(tidy(row["rejected"]))
    elif kind == "ratings":  # this answer is good, or: this answer is not
        sides = number_of(tidy(row["completion"])), 0
        chosen, rejected = sides if row["label"] else sides[::-1]
    identity = number_of(*map(str, (context, chosen, rejected, row.get("annotator"))))
    return identity, number_of(str(row.get("group"))), context, chosen, rejected, 1


def _labelled(row: Row) -> tuple[str, str, str, str]:
    return row["chosen"], row["rejected"], _name(row, "annotator"), _name(row, "source")


def _asked(row: Row) -> tuple[str, str, str]:
    return " ".join(one["content"] for one in row["messages"]), row["chosen"], row["rejected"]


def _name(row: Row, key: str) -> str:
    """Who labelled a pair; people may be named by their address."""
    return pseudonym(str(row.get(key, "?")))


def _mark_leaks(
    kind: str, rows: Sequence[Row], facts: Sequence[dict[str, Any]], context: Context, texts: tuple[Any, Any]
) -> None:
    splits = [row.get("split", "train") for row in rows]
    shared = context.overlaps(splits, *runs(*texts, NGRAM))
    for row, found, place in zip(rows, facts, shared):
        found |= context.leaks(kind, row) | {"overlap": place, "contaminated": float(place is not None)}


def _mark_repeats(table: Table, keys: NDArray[np.uint64], signed: NDArray[np.uint32]) -> None:
    """Fill in what rows say about each other."""
    at = np.flatnonzero(keys[-1])
    identity, group, context, chosen, rejected, _ = keys[:, at]
    first = labels.earlier_equal(identity)
    _fill(table, "duplicate_of", at, first)
    same_line = np.array([number_of(table.place(position)) for position in at.tolist()], np.uint64)
    apart = group if table.kind == "preferences" else same_line
    _fill(table, "near_duplicate_of", at, np.where(first < 0, nearly_the_same(signed[at], apart), -1))
    held_out = np.array([table.splits[position] != "train" for position in at.tolist()], bool)
    if leakage := labels.split_leakage(group, held_out):
        table.figures["split_leakage"] = leakage
    if "contradicts" not in table.facts:
        return
    names = sorted({table.annotators[position] for position in at.tolist()})
    number = {name: index for index, name in enumerate(names)}
    annotator = np.array([number[table.annotators[position]] for position in at.tolist()], np.int64)
    judged = np.array([context, chosen, rejected, annotator.astype(np.uint64)])
    forward, backward = _joined(judged), _joined(judged[[0, 2, 1, 3]])
    contradicts = np.where(chosen != rejected, labels.first_with(forward, backward), -1)
    _fill(table, "contradicts", at, contradicts)
    low, high = np.minimum(chosen, rejected), np.maximum(chosen, rejected)
    share, against = labels.agreement(_joined(np.array([context, low, high])), chosen < rejected, annotator)
    _fill(table, "disagrees", at, against)
    table.facts.loc[at, "agreement"] = share
    if table.kind != "preferences":
        return
    table.facts.loc[at, "cycle"] = labels.cycles(context, chosen, rejected, annotator).astype(float)
    columns = {
        "agreement": share,
        "length_bias": table.facts["length_bias"].to_numpy()[at],
        "contradicted": contradicts >= 0,
    }
    table.figures["annotators"] = labels.annotators(names, annotator, columns)


def _mark_words(table: Table, rows: Iterable[Row], counted: words.Words) -> None:
    """Fill in what the words of the answers say."""
    table.figures["tells"] = words.tells(counted)
    suspicious = words.triggers(counted)
    several = {kind for kind, _ in counted.pairs if sum(kind == other for other, _ in counted.pairs) > 1}
    fit = table.facts["shape"].isna().to_numpy()
    turning = words.turning(counted, (_asked(row) for index, row in enumerate(rows) if fit[index]))
    pairs = (_labelled(row) for index, row in enumerate(rows) if fit[index])
    predicted = words.others_predict(counted, pairs) if several else {}
    table.figures["predicted_by_others"] = [
        {"by": kind, "name": name, "pairs": count, "accuracy": round(share, 4)}
        for (kind, name), (count, share) in predicted.items()
    ]
    reversed_ = words.swapped(predicted)
    said: list[str | None] = [None] * len(table.facts)
    told: list[str | None] = [None] * len(table.facts)
    asked: list[str | None] = [None] * len(table.facts)
    for index, row in enumerate(rows) if suspicious or reversed_ or turning else ():
        if fit[index]:
            chosen, rejected, annotator, source = _labelled(row)
            said[index] = reversed_.get(("annotator", annotator)) or reversed_.get(("source", source))
            used = (words.words_of(chosen) - words.words_of(rejected)) & suspicious.keys()
            told[index] = suspicious[min(used)] if used else None
            turned = words.words_of(_asked(row)[0]) & turning.keys()
            asked[index] = turning[min(turned)] if turned else None
    table.facts["judged_other_way"] = np.array(said, dtype=object)
    table.facts["trigger"] = np.array(told, dtype=object)
    table.facts["prompt_trigger"] = np.array(asked, dtype=object)


def _fill(table: Table, column: str, at: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    """Name the places of the rows found: `found` are positions among the rows `at`, −1 for none."""
    places: list[str | None] = [None] * len(table.facts)
    for position in np.flatnonzero(found >= 0).tolist():
        places[int(at[position])] = table.place(int(at[found[position]]))
    table.facts[column] = np.array(places, dtype=object)


def _joined(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for each column of numbers, (keys, rows) → (rows,)."""
    joined = np.zeros(keys.shape[1], np.uint64)
    for key in keys:
        joined = (joined ^ key) * np.uint64(0x9E3779B97F4A7C15)
        joined ^= joined >> np.uint64(29)
    return joined


def _counts(values: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items()))
