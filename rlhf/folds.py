"""Cross-validation of a reward model: folds of whole groups, the length rule that it has to beat, and what of it is
length.

The length rule prefers the longer answer, or the shorter one. It knows nothing of what is said, and where people like
one of the two better it is right more often than not: a reward model that does not beat it has learnt nothing else.
N pairs; lengths are words of chosen and rejected, [N, 2].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.seeding import derive
from rlhf.statistics import Floats, correlation

EDGES = (0.5, 5.5, 15.5, 40.5)
"""Where bins of |words of chosen − words of rejected| end; the last is open."""
NAMES = ("same", "1-5", "6-15", "16-40", "41+")


def deal(groups: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, [N] in 0 … count − 1: whole groups, shuffled by `seed` and dealt in turn.

    Neither the order of the rows nor how many a group has enters. Raises ValueError where a fold would stay empty.
    """
    names = sorted(set(groups), key=lambda name: derive(seed, "folds", name))
    if not 2 <= count <= len(names):
        raise ValueError(
            f"{len(names)} groups cannot be dealt into {count} folds: expected at least 2 and one group each"
        )
    fold = {name: number % count for number, name in enumerate(names)}
    return np.array([fold[name] for name in groups])


def length_direction(lengths: Floats) -> int:
    """What the length rule learns from labelled pairs [N, 2]: 1 where longer answers won at least as often, else −1."""
    return 1 if np.sign(lengths[:, 0] - lengths[:, 1]).sum() >= 0 else -1


def length_right(lengths: Floats, direction: int) -> Floats:
    """Whether the rule chooses as people did, [N]: 1, 0, or ½ where both sides are as long."""
    right: Floats = 0.5 + 0.5 * np.sign(direction * (lengths[:, 0] - lengths[:, 1]))
    return right


def length_share(margins: Floats, lengths: Floats, rule: Floats) -> dict[str, Any]:
    """How much of a model's accuracy could be length: `margins` are r(chosen) − r(rejected) [N], `rule` what the length
    rule has right [N].

    `matched_accuracy` is what is left where length says nothing: in each bin of the length difference the pairs whose
    chosen side is longer and those whose chosen side is shorter count alike, so that a rule which prefers the longer
    side of a bin, or the shorter, scores ½. Bins that lack one of the two are left out. `length_part` is the share of
    the accuracy above ½ that goes with it, 1 − (matched − ½)/(accuracy − ½), None where nothing is above ½.
    `margin_length_correlation` is that of margin and difference over both orders of each pair.
    """
    right = 0.5 + 0.5 * np.sign(margins)
    longer_by = lengths[:, 0] - lengths[:, 1]
    bins = [_bin(name, right, longer_by, where) for name, where in zip(NAMES, _binned(longer_by), strict=True)]
    counted = [part for part in bins if "matched" in part]
    total = sum(part["pairs"] for part in counted)
    matched = sum(part["pairs"] * part["matched"] for part in counted) / total if total else None
    above = float(right.mean()) - 0.5
    return {
        "matched_accuracy": matched,
        "length_part": 1 - (matched - 0.5) / above if matched is not None and above > 0 else None,
        "agreement_with_rule": float((0.5 + 0.5 * np.sign(margins) * (2 * rule - 1)).mean()),
        "accuracy_where_rule_is_right": _mean(right[rule == 1]),
        "accuracy_where_rule_is_wrong": _mean(right[rule == 0]),
        "margin_length_correlation": correlation(
            np.concatenate([margins, -margins]), np.concatenate([longer_by, -longer_by])
        ),
        "by_difference": [part for part in bins if part["pairs"]],
    }


def _binned(longer_by: Floats) -> list[NDArray[np.bool_]]:
    number = np.digitize(np.abs(longer_by), EDGES)
    return [number == index for index in range(len(NAMES))]


def _bin(name: str, right: Floats, longer_by: Floats, where: NDArray[np.bool_]) -> dict[str, Any]:
    """Pairs, accuracy by which side is longer, and both as if there were as many of the one as of the other."""
    found: dict[str, Any] = {"words_apart": name, "pairs": int(where.sum()), "accuracy": _mean(right[where])}
    longer, shorter = right[where & (longer_by > 0)], right[where & (longer_by < 0)]
    if name == NAMES[0]:
        return found | ({"matched": found["accuracy"]} if where.any() else {})
    found |= {"chosen_longer": _mean(longer), "chosen_shorter": _mean(shorter)}
    if len(longer) and len(shorter):
        found["matched"] = float(longer.mean() + shorter.mean()) / 2
    return found


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
