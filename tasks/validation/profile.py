"""The profile of a data set: what a later one is held against, in a few numbers.

Drift is the population stability index of two profiles, Σ (p − q) ln(p / q) over bins, of lengths (in powers of two)
and of sources; the largest of them counts. By the usual reading below 0.1 is no change, above 0.25 a large one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np

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


def drift(present: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """The largest stability index of two profiles; None where either has no rows."""
    if not present["rows"] or not reference.get("rows"):
        return None
    pairs = [(present["sources"], reference["sources"])]
    for name in present["lengths"].keys() & reference["lengths"].keys():
        pairs.append(tuple(one["lengths"][name]["powers_of_two"] for one in (present, reference)))
    return round(max(_stability(*pair) for pair in pairs), 6)


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
