"""What pairs say about each other: contradictions, disagreement between annotators, cycles.

A pair is one judgement: in this context, annotator n prefers answer a to answer b. Texts are numbers of 64 bits here
(`overlap.number_of`), annotators small numbers, and what is found are positions of rows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.uint64]
Positions: TypeAlias = NDArray[np.int64]


def earlier_equal(keys: Numbers) -> Positions:
    """For every row the position of the first row with its key, −1 for the first itself."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found = first[inverse].astype(np.int64)
    return np.where(found == np.arange(len(keys)), -1, found)


def first_with(keys: Numbers, wanted: Numbers) -> Positions:
    """For every wanted key the position of the first row that has it, −1 where none has."""
    values, first = np.unique(keys, return_index=True)
    if not len(values):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.where(values[at] == wanted, first[at], -1).astype(np.int64)


def agreement(item: Numbers, side: NDArray[np.bool_], annotator: Positions) -> tuple[NDArray[np.float64], Positions]:
    """How far others agree with each judgement, and where one of them does not.

    Args:
        item: context and the two answers in either order, (rows,).
        side: which of the two was chosen, (rows,).

    Returns:
        The share of the judgements of other annotators on the same item that chose the same side (NaN without any), and
        the position of the first that did not (−1 without one). With the two answers in no particular order, chance
        agreement is ½, so Krippendorff's α is 2A − 1 of the mean share A over judgements, up to its small-sample term.
    """
    _, group = np.unique(item, return_inverse=True)
    _, own = np.unique(np.stack([group.astype(np.int64), annotator]), axis=1, return_inverse=True)
    own = own.reshape(-1)
    same = _count(2 * group + side) - _count(2 * own + side)
    others = _count(group) - _count(own)
    share = np.divide(same, others, out=np.full(len(item), np.nan), where=others > 0)
    against: Positions = np.full(len(item), -1, np.int64)
    members: dict[int, list[int]] = defaultdict(list)
    disputed = set(group[share < 1].tolist())
    for row, number in enumerate(group.tolist()):
        if number in disputed:
            members[number].append(row)
    for rows in members.values():
        first = {way: _two_annotators([row for row in rows if side[row] == way], annotator) for way in (False, True)}
        for row in rows:
            others = first[not side[row]]
            against[row] = next((one for one in others if annotator[one] != annotator[row]), -1)
    return share, against


def _two_annotators(rows: list[int], annotator: Positions) -> list[int]:
    """The first row, and the first of another annotator: whoever asks, one of them is somebody else's."""
    return rows[:1] + [row for row in rows if annotator[row] != annotator[rows[0]]][:1]


def cycles(context: Numbers, chosen: Numbers, rejected: Numbers, annotator: Positions) -> Positions:
    """Number of answers in the cycles that a judgement is part of (a > b > c > a, of one annotator in one context), 0
    for none; of cycles with an answer in common all together. Pairs that were judged both ways are contradictions and
    make no cycle."""
    found: Positions = np.zeros(len(context), np.int64)
    _, group = np.unique(np.stack([context, annotator.astype(np.uint64)]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    busy = np.flatnonzero(np.bincount(group, minlength=1)[group] >= 3)
    edges: dict[int, list[int]] = defaultdict(list)
    for row in busy.tolist():
        edges[int(group[row])].append(row)
    for rows in edges.values():
        said = {(int(chosen[row]), int(rejected[row])) for row in rows}
        rows = [row for row in rows if (int(rejected[row]), int(chosen[row])) not in said]
        component = _components([(int(chosen[row]), int(rejected[row])) for row in rows])
        sizes: dict[int, int] = defaultdict(int)
        for number in component.values():
            sizes[number] += 1
        for row in rows:
            number = component[int(chosen[row])]
            if number == component[int(rejected[row])]:
                found[row] = sizes[number]
    return found


def annotators(names: list[str], annotator: Positions, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each annotator, the busiest first: judgements, agreement with others, choices of the longer answer.

    `columns` are agreement, length_bias and contradicted (0 or 1), one value a judgement.
    """
    lines = []
    order = np.argsort(annotator, kind="stable")
    ends = np.bincount(annotator, minlength=len(names)).cumsum()
    for name, mine in zip(names, np.split(order, ends[:-1])):
        share = columns["agreement"][mine]
        judged = int(np.isfinite(share).sum())
        lines.append(
            {
                "annotator": name,
                "pairs": len(mine),
                "judged_by_others": judged,
                "agreement": round(float(np.nanmean(share)), 4) if judged else None,
                "longer_chosen": round(float(np.nanmean(columns["length_bias"][mine])) + 0.5, 4),
                "contradictions": int(columns["contradicted"][mine].sum()),
            }
        )
    return sorted(lines, key=lambda line: (-int(line["pairs"]), str(line["annotator"])))  # type: ignore[call-overload]


def split_leakage(group: Numbers, held_out: NDArray[np.bool_]) -> dict[str, float] | None:
    """Of the held-out rows, the share whose group (the same question) is also trained on: as it is split, and as a
    split row by row would do it. None where nothing is held out, or all is.

    A row of a group of g rows has another one in training with probability 1 − p^(g − 1), with a share p held out.
    """
    share = float(held_out.mean()) if len(held_out) else 0.0
    if not 0 < share < 1:
        return None
    _, number, size = np.unique(group, return_inverse=True, return_counts=True)
    trained = np.bincount(number[~held_out], minlength=len(size)) > 0
    return {
        "held_out": round(share, 4),
        "by_row": round(float((1 - share ** (size[number] - 1.0)).mean()), 4),
        "by_group": round(float(trained[number[held_out]].mean()), 4),
    }


def _count(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows have the key of each row."""
    return np.bincount(keys, minlength=1)[keys] if len(keys) else keys


def _components(edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Strongly connected components of a directed graph, by node (Kosaraju's two searches)."""
    forward: dict[int, list[int]] = defaultdict(list)
    backward: dict[int, list[int]] = defaultdict(list)
    for start, end in edges:
        forward[start].append(end)
        backward[end].append(start)
    nodes = sorted(forward.keys() | backward.keys())
    order: list[int] = []
    seen: set[int] = set()
    for node in nodes:
        order += _search(node, forward, seen)
    component: dict[int, int] = {}
    seen = set()
    for number, node in enumerate(reversed(order)):
        component |= dict.fromkeys(_search(node, backward, seen), number)
    return component


def _search(node: int, edges: Mapping[int, list[int]], seen: set[int]) -> list[int]:
    """Nodes that can be reached and are not seen yet, each after those that it leads to."""
    if node in seen:
        return []
    seen.add(node)
    done: list[int] = []
    stack = [(node, iter(edges.get(node, ())))]
    while stack:
        current, rest = stack[-1]
        following = next((other for other in rest if other not in seen), None)
        if following is None:
            done.append(current)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(edges.get(following, ()))))
    return done
