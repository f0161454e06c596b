"""What became of rows in a run: which stages had them among their inputs, and what their models learnt of them.

A stage is touched where an input holds one of the rows. What a model then has of them is one of four words:

trained on              its training saw them
built on                it started from, was rewarded by or learnt from samples of a model that was trained on them
chosen with             a model that was trained on them said when its training stopped, and no more
read, not trained on    its stage read them, and its own rules kept them out of training (another split, half or pool)

The bytes of a model of the first three words depend on the rows.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.lineage.rows import Held
from flows.lineage.runs import Known, module_of
from tasks.lineage import Item

TRAINED, BUILT, CHOSEN, READ = "trained on", "built on", "chosen with", "read, not trained on"
RETIRED = (TRAINED, BUILT, CHOSEN)
"""Words of models that would be others without the rows."""
_STEERS = ("--held-out",)
_MEASURES = ("--reward-metrics", "--champion")
_HALVES = {"policy_rm": "policy", "held_out_rm": "held_out"}
_ROW_WISE = ("collect", "prepare", "validate")
"""Modules that treat each row by itself: of what they write only the outs that hold the rows are touched."""
_ENDS = ("evaluate", "gate", "folds", "trajectory")
"""Modules that measure; nothing is learnt from what they write."""
_SPLITS = 4
"""That are named, the largest first."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Touched:
    """One out of a run that the rows reached."""

    item: Item
    stage: str
    word: str
    """"holds" for data; for models see above; "made with" for data that a touched model sampled or labelled."""
    because: str
    """One phrase."""
    count: int = 0
    """Rows."""
    rows: Rows = ()
    inputs: tuple[str, ...] = field(default=(), compare=False)
    """Touched paths that it was made from."""


def touched(run: Known, held: Mapping[str, Held]) -> dict[str, Touched]:
    """All outs of a run that the rows reached, by path, in the order of the graph."""
    found: dict[str, Touched] = {}
    for stage in run.stages:
        for one in _of_stage(run, stage, held, found):
            found[one.item.path] = one
    return found


def _of_stage(run: Known, stage: str, held: Mapping[str, Held], before: Mapping[str, Touched]) -> Iterator[Touched]:
    module = module_of(run.tree.graph, stage)
    roles = _roles(run.tree.graph.stages[stage].cmd)
    inputs = [before[item.path] for item in run.tree.deps(stage) if item.path in before]
    data = [one for one in inputs if one.word == "holds"]
    taints = [] if module in (*_ROW_WISE, *_ENDS) else [one for one in inputs if _taints(one, roles)]
    for item in run.tree.outs(stage):
        rows = held[item.path].rows if item.path in held and not item.is_model else []
        names = tuple(one.item.path for one in inputs)
        if rows:
            yield Touched(item, stage, "holds", _splits(rows), len(rows), rows, names)
        elif item.is_model:
            word, because, learnt = _learnt(module, item, data, taints, roles, held, run)
            if word:
                yield Touched(item, stage, word, because, len(learnt), learnt, names)
        elif taints and not _is_report(item):
            yield Touched(item, stage, "made with", _named(taints), 0, (), names)


def _learnt(
    module: str,
    item: Item,
    data: Sequence[Touched],
    taints: Sequence[Touched],
    roles: Mapping[str, str],
    held: Mapping[str, Held],
    run: Known,
) -> tuple[str, str, Rows]:
    """What a model has of the rows: the strongest word, why, and the rows it saw."""
    read = [dict(row) | {"kind": one.item.path.rsplit("/", 1)[-1]} for one in data for row in one.rows]
    seen = [row for row in read if _is_trained(module, item, row, held, run)]
    if seen:
        drawn = _drawn(module, run)
        return TRAINED, f"{_splits(seen)}{drawn}", seen
    strong = [one for one in taints if roles.get(one.item.path) not in _STEERS and one.word != CHOSEN]
    if strong:
        return BUILT, _named(strong), ()
    if taints:
        return CHOSEN, _named(taints), ()
    return (READ, _why_not(module, item, read), read) if read else ("", "", ())


def _is_trained(module: str, item: Item, row: Mapping[str, Any], held: Mapping[str, Held], run: Known) -> bool:
    """By the rules of the stage modules; of a module that is not known every train row counts."""
    name, kind, split = item.path.rsplit("/", 1)[-1], row["kind"], _split(row)
    if module == "rejection_sampling":
        if name != "policy":
            return kind == "rollouts"
        selected = held.get(f"{item.path.rsplit('/', 1)[0]}/selected")
        return selected is not None and any(one.get("id") == row.get("id") for one in selected.rows)
    if split != "train":
        return False
    if module == "reward_model":
        return kind == "pairs" and row.get("half") == _HALVES.get(name, row.get("half"))
    if module == "dpo":
        return (kind == "pairs" and row.get("half") == "policy") or kind == "ratings"
    if module == "rl":
        return kind == "demonstrations" or (kind == "prompts" and row.get("pool", "any") in ("rl", "any"))
    return True


def _why_not(module: str, item: Item, rows: Rows) -> str:
    """What kept rows out of training."""
    half = _HALVES.get(item.path.rsplit("/", 1)[-1], "policy")
    reasons = Counter(
        f"split {_split(row)}"
        if _split(row) != "train"
        else f"half {row['half']}, this one learns from {half}"
        if "half" in row
        else f"pool {row['pool']}"
        if "pool" in row
        else "not selected"
        for row in rows
    )
    return ", ".join(f"{reason} ({count})" if len(rows) > 1 else reason for reason, count in reasons.most_common())


def _drawn(module: str, run: Known) -> str:
    """Where a stage draws some of its rows, which ones is not in its outs."""
    most = (run.params.get("dpo") or {}).get("max_pairs") if module == "dpo" else None
    return f"; of all such pairs dpo.max_pairs={most} were drawn at most" if most else ""


def _taints(one: Touched, roles: Mapping[str, str]) -> bool:
    """Whether an input carries what was learnt of the rows: a model or what it made, not what was measured of it."""
    return one.word in (*RETIRED, "made with") and roles.get(one.item.path) not in _MEASURES


def _roles(cmd: str) -> dict[str, str]:
    """The option by which a command is given each path."""
    found: dict[str, str] = {}
    option = ""
    for word in shlex.split(cmd):
        if word.startswith("--"):
            option = word
        elif option:
            found.setdefault(word.rpartition("=")[2], option)
    return found


def _split(row: Mapping[str, Any]) -> str:
    return str(row.get("split") or str(row.get("in", "")).rsplit("/", 1)[-1].removesuffix(".jsonl"))


def _splits(rows: Rows) -> str:
    """ "split train, half policy" of one row; "12 train, 3 val" of many."""
    if len(rows) == 1:
        named = [f"{key} {rows[0][key]}" for key in ("split", "half", "pool") if rows[0].get(key)]
        return ", ".join(named) or f"{rows[0].get('in', '')}"
    counts = Counter(" ".join([_split(row), *([row["half"]] if "half" in row else [])]) for row in rows)
    shown = [f"{count} {name}" for name, count in counts.most_common(_SPLITS)]
    more = [f"and {len(counts) - _SPLITS} more"] if len(counts) > _SPLITS else []
    return ", ".join(shown + more)


def _named(found: Sequence[Touched]) -> str:
    return ", ".join(sorted({one.item.path.removeprefix("data/") for one in found}))


def _is_report(item: Item) -> bool:
    return item.path.endswith((".json", "/report"))
