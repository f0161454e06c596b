"""What a run will take, stage by stage, before its first step: memory, disk, tokens, time; and what to change.

Worked out from sizes alone, in a moment and without torch. The formulas are those of `rlhf.footprint`; what earlier
stages took beside what was said of them corrects the next plan (`flows.plan_measured`).
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import plan_measured
from flows.plan_card import Card
from flows.plan_data import Facts, facts
from flows.plan_sizes import sizes_of
from flows.plan_stages import Need, module_of, need
from flows.plan_work import disk_of, tokens_of
from rlhf.footprint import How, Sizes
from tasks.graph import Graph, Stage

KINDS = {"base": "corpus", "sft": "demonstrations", "rejection_sampling": "demonstrations"}
"""The data that a module's rows are as long as; of the others the preferences, or the prompts."""
CHANGES: list[tuple[str, Any, str]] = [
    ("training.gradient_checkpointing", True, "a third more time"),
    ("training.optimizer", "adamw_8bit", "moments in 8 bits"),
    ("training.dtype", "bfloat16", "half precision"),
    ("training.method", "lora", "an adapter on frozen weights"),
    ("training.method", "qlora", "the frozen weights in 4 bits"),
]
"""In the order of what they cost: first what changes nothing but time."""


@dataclass(frozen=True)
class Line:
    """A stage of the plan."""

    need: Need
    peak: float
    """Bytes with the libraries, corrected by what was measured."""
    fits: bool
    change: str
    """The cheapest change with which it fits; empty where it does, or where nothing helps."""
    disk: float
    """Bytes."""
    tokens: float
    """That the stage trains on or samples; 0: not known."""
    factor: float
    """Measured over predicted, of earlier runs; 1: never measured."""
    kind: str
    """What it is measured together with."""


@dataclass(frozen=True)
class Plan:
    """All stages that use a model."""

    sizes: Sizes
    how: How
    card: Card
    lines: list[Line]
    disk: float
    """Bytes of all stages together."""
    free: float | None
    """Of this machine's disk; None where the plan is for another machine."""
    assumed: list[str]
    """Kinds of data whose lengths nobody has measured yet."""

    @property
    def fits(self) -> bool:
        return all(line.fits for line in self.lines) and (self.free is None or self.disk <= self.free)


@dataclass(frozen=True)
class _Situation:
    """What all stages of a plan share."""

    values: Mapping[str, Any]
    sizes: Sizes
    card: Card
    data: Mapping[str, Facts]
    """By kind."""


def how_of(values: Mapping[str, Any], card: Card) -> How:
    """Section `training`, on this card."""
    training = values["training"]
    return How(
        method=training["method"],
        rank=training["rank"],
        optimizer=training["optimizer"],
        dtype=training["dtype"],
        gradient_checkpointing=training["gradient_checkpointing"],
        cuda=card.gpu,
        shards=training["nproc"] if training["shard"] else 1,
    )


def plan(
    root: Path,
    graph: Graph,
    values: Mapping[str, Any],
    card: Card,
    shape: str = "",
    only: Collection[str] = (),
    here: bool = True,
    owner: Path | None = None,
) -> Plan:
    """The plan of a graph with these settings (all of them, as `whole` gives them).

    Args:
        shape: a named model instead of the configured one.
        only: stages that are going to run; empty: all.
        here: whether it is this machine that they run on.
        owner: the project that keeps what was measured; `root`, where that is not a worktree.

    Raises:
        ConfigError: the model's sizes are not known here.
    """
    if shape:
        values = _changed(values, "base.source", "checkpoint")
    stages = [
        (stage, *named)
        for name, stage in graph.stages.items()
        if (named := module_of(stage)) and (not only or name in only)
    ]
    data = {kind: facts(root, kind, values) for kind in {_kind(module) for _, module, _ in stages}}
    about = _Situation(values, sizes_of(root, values["base"], shape), card, data)
    lines = list(_lines(about, stages, plan_measured.ratios(owner or root)))
    assumed = sorted(kind for kind, found in data.items() if not found.measured)
    free = float(shutil.disk_usage(root).free) if here else None
    return Plan(about.sizes, how_of(values, card), card, lines, sum(line.disk for line in lines), free, assumed)


def _lines(
    about: _Situation, stages: Collection[tuple[Stage, str, str]], ratios: Mapping[str, float]
) -> Iterator[Line]:
    """Of each stage, which comes with its module and section."""
    how = how_of(about.values, about.card)
    for stage, module, section in stages:
        data = about.data[_kind(module)]
        kind = plan_measured.key(module, about.sizes, how)
        factor = ratios.get(kind, 1.0)
        found = need(stage, about.values, about.sizes, how, data.lengths)
        peak = _peak(about, found, factor)
        fits = peak <= about.card.room
        change = "" if fits else _cheapest(about, stage, section, data, factor)
        tokens = tokens_of(module, about.values[section], about.values, data)
        yield Line(found, peak, fits, change, disk_of(module, about.sizes, how), tokens, factor, kind)


def _kind(module: str) -> str:
    return KINDS.get(module, "preferences" if module in ("reward_model", "dpo") else "prompts")


def _peak(about: _Situation, found: Need, factor: float) -> float:
    return about.card.libraries * (1 if about.card.gpu else factor) + found.peak * factor


def _cheapest(about: _Situation, stage: Stage, section: str, data: Facts, factor: float) -> str:
    """Settings with which the stage fits: one alone if one does, else the first ones together; empty where none do."""

    def fits(values: Mapping[str, Any]) -> bool:
        found = need(stage, values, about.sizes, how_of(values, about.card), data.lengths)
        return _peak(about, found, factor) <= about.card.room

    smaller = list(_smaller(about.values, section, data))
    for key, value, why in [*smaller, *CHANGES]:
        if fits(_changed(about.values, key, value)):
            return f"{key}={_word(value)} ({why})"
    taken: list[tuple[str, Any]] = []
    values = about.values
    least = {key: (key, value, why) for key, value, why in smaller}  # the last of each
    for key, value, _ in [*least.values(), *CHANGES]:
        values = _changed(values, key, value)
        taken = [one for one in taken if one[0] != key] + [(key, value)]
        if fits(values):
            return ", ".join(_needed(about.values, values, taken, fits))
    return _more_processes(about.values, fits) if about.card.gpu else ""


def _needed(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    taken: list[tuple[str, Any]],
    fits: Callable[[Mapping[str, Any]], bool],
) -> list[str]:
    """The changes without those that it fits without, or that change nothing."""
    kept = []
    for key, value in taken:
        section, _, name = key.partition(".")
        without = _changed(after, key, before[section][name])
        if fits(without):
            after = without
        else:
            kept.append(f"{key}={_word(value)}")
    return kept


def _more_processes(values: Mapping[str, Any], fits: Callable[[Mapping[str, Any]], bool]) -> str:
    """How many GPUs it takes where their processes divide the blocks; "" where that does not help."""
    for count in (2**power for power in range(1, 9)):
        if fits(spread(values, count)):
            return f"training.nproc={count}, training.shard=true (on {count} GPUs)"
    return ""


def spread(values: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The settings for so many GPUs: all weights divided, adapters as copies."""
    shard = values["training"]["method"] == "full" and count > 1
    return _changed(_changed(values, "training.nproc", count), "training.shard", shard)


def _smaller(values: Mapping[str, Any], section: str, data: Facts) -> Iterator[tuple[str, int, str]]:
    """Fewer completions at a time, down to one, and smaller passes, down to one row: halves."""
    size, limit = values["generation"]["batch_size"], values[section].get("max_batch_tokens", 0)
    while size > 1:
        size //= 2
        yield "generation.batch_size", size, "fewer completions at a time, same result but for rounding"
    row = data.lengths.longest + values["generation"]["max_new_tokens"]
    while limit // 2 >= 2 * row:
        limit //= 2
        yield f"{section}.max_batch_tokens", limit, "smaller passes, same result but for rounding"


def _changed(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(dict(values))
    section, _, name = key.partition(".")
    changed[section][name] = value
    return changed


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
