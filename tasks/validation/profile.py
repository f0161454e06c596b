"""The profile of a data set: what a later one is held against, in a few numbers.

Drift is the population stability index of two profiles, Σ (p − q) ln(p / q) over bins, of lengths (in powers of two)
and of sources; the largest of them counts. By the usual reading below 0.1 is no change, above 0.25 a large one.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import PreflowError

LENGTHS = ("prompt_chars", "completion_chars", "chosen_chars", "rejected_chars", "chars")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TOP = 20  # sources that are named

_FLOOR = 1e-4  # share of an empty bin, so that it counts and does not decide alone


def profile(facts: Any, sources: Sequence[str], splits: Mapping[str, int]) -> dict[str, Any]:
    """Counts, quantiles and histograms of lengths, sources. `facts` is a table of `tasks.validation.table`."""
    lengths = {name: facts[name].dropna().to_numpy() for name in LENGTHS if name in facts}
    named = Counter(sources).most_common(TOP)
    means = {name: facts[name].dropna() for name in ("length_bias", "label", "agreement") if name in facts}
    return {
        "rows": len(sources),
        "splits": dict(splits),
        "sources": dict(sorted(named)),
        "means": {name: round(float(values.mean()), 6) for name, values in means.items() if len(values)},
        "lengths": {
            name: {
                "quantiles": [int(value) for value in np.quantile(values, QUANTILES, method="lower")],
                "powers_of_two": _powers(values),
            }
            for name, values in lengths.items()
            if len(values)
        },
    }


def read_profiles(path: Path) -> dict[str, Any]:
    """Profiles by kind of data as the gate wrote them, none where there is no such file.

    Raises PreflowError where the file is anything else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for one in found.values():
            _check(one)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PreflowError(
            f"{path} is no profile ({type(error).__name__}: {str(error)[:80]}): copy profile.json of a run's report "
            "there, or remove it to measure no drift"
        ) from error
    return dict(found)


def _check(one: Mapping[str, Any]) -> None:
    """All that `drift` reads: counts, none negative, and some in every histogram."""
    counts = [one["sources"], *(each["powers_of_two"] for each in one["lengths"].values())]
    if one["rows"] and min(min(values.values(), default=0) for values in counts) < 0:
        raise ValueError("a count below zero")
    if one["rows"] and (0 in [sum(values.values()) for values in counts] or sum(one["sources"].values()) > one["rows"]):
        raise ValueError("counts that do not add up")


def drift(present: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """The largest stability index of two profiles; None where either has no rows."""
    if not present["rows"] or not reference.get("rows"):
        return None
    pairs = [_sources(present, reference)]
    for name in present["lengths"].keys() & reference["lengths"].keys():
        pairs.append(tuple(one["lengths"][name]["powers_of_two"] for one in (present, reference)))
    return round(max(_stability(*pair) for pair in pairs), 6)


def _sources(present: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Rows by source; where a profile names only its largest, those that both name, and all others together."""
    if all(sum(one["sources"].values()) == one["rows"] for one in (present, reference)):
        return present["sources"], reference["sources"]
    both = present["sources"].keys() & reference["sources"].keys()
    mine, theirs = ({name: one["sources"][name] for name in sorted(both)} for one in (present, reference))
    return mine | {"": present["rows"] - sum(mine.values())}, theirs | {"": reference["rows"] - sum(theirs.values())}


def _stability(present: Mapping[str, int], reference: Mapping[str, int]) -> float:
    total = 0.0
    for name in sorted(present.keys() | reference.keys()):
        p, q = (max(each.get(name, 0) / sum(each.values()), _FLOOR) for each in (present, reference))
        total += (p - q) * log(p / q)
    return total


def _powers(values: Any) -> dict[str, int]:
    """How many lengths are below each power of two and not below the one before."""
    counts = Counter(int(value).bit_length() for value in values)
    return {str(2**power): counts[power] for power in sorted(counts)}
