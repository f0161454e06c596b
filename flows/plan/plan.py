"""What a run will take, stage by stage, before its first step: memory, disk, tokens, time; and what to change.

Worked out from sizes alone, in a moment and without torch. The formulas are those of `rlhf.footprint`; what earlier
stages took beside what was said of them corrects the next plan (`flows.plan.measured`).
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flows.plan import change as plan_change
from flows.plan import measured
from flows.plan import time as plan_time
from flows.plan.card import Card
from flows.plan.data import Facts, facts
from flows.plan.flops import Work, work_of
from flows.plan.measured import Learnt
from flows.plan.sizes import sizes_of
from flows.plan.stages import Need, module_of, need
from flows.plan.time import Time
from flows.plan.work import checkpoint_of, disk_of, tokens_of
from rlhf.footprint import Terms, total
from rlhf.sizes import How, Sizes
from tasks.config.training import Training
from tasks.graph import Graph, Stage

KINDS = {"base": "corpus", "sft": "demonstrations", "rejection_sampling": "demonstrations"}
"""The data that a module's rows are as long as; of the others the preferences, or the prompts."""


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
    checkpoint: float
    """Bytes of one."""
    tokens: float
    """That the stage trains on or samples; 0: not known."""
    factor: float
    """Measured over predicted, of earlier runs, or counted over predicted; 1: neither."""
    kind: str
    """What it is measured together with."""
    work: Work | None
    """None: the number of its rows is not known."""
    time: Time
    timed: str
    """What it is timed together with."""
    processes: int
    """That it trains in, whose memory its cost report adds up."""


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
    assumed: dict[str, str]
    """Kinds of data whose lengths nobody has measured yet, and whose are taken instead."""
    tflops: float | None
    """Rate of the card that was named; None: none."""

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
    learnt: Learnt
    tflops: float | None
    counted: Mapping[str, Terms]


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
    tflops: float | None = None,
    counted: Mapping[str, Terms] = MappingProxyType({}),
) -> Plan:
    """The plan of a graph with these settings (all of them, as `whole` gives them).

    Args:
        shape: a named model instead of the configured one.
        only: stages that are going to run; empty: all.
        here: whether it is this machine that they run on.
        owner: the project that keeps what was measured; `root`, where that is not a worktree.
        tflops: rate of one card by its data sheet, for stages of which nothing was measured.
        counted: bytes of training by stage, where they were counted (`flows.plan.exact`); in place of the formulas'.

    Raises:
        ConfigError: the model's sizes are not known here.
    """
    if shape:
        values = plan_change.changed(values, "base.source", "checkpoint")
    stages = [
        (stage, *named)
        for name, stage in graph.stages.items()
        if (named := module_of(stage)) and (not only or name in only)
    ]
    data = {kind: facts(root, kind, values) for kind in {_kind(module) for _, module, _ in stages}}
    learnt = measured.learnt(owner or root)
    about = _Situation(values, sizes_of(root, values["base"], shape), card, data, learnt, tflops, counted)
    lines = list(_lines(about, stages))
    assumed = {kind: found.assumed for kind, found in sorted(data.items()) if found.assumed}
    free = float(shutil.disk_usage(root).free) if here else None
    disk = sum(line.disk for line in lines)
    return Plan(about.sizes, how_of(values, card), card, lines, disk, free, assumed, tflops)


def _lines(about: _Situation, stages: Collection[tuple[Stage, str, str]]) -> Iterator[Line]:
    """Of each stage, which comes with its module and section."""
    how = how_of(about.values, about.card)
    for stage, module, section in stages:
        data = about.data[_kind(module)]
        kind = measured.key(module, about.sizes, how)
        factor = about.learnt.ratios.get(kind, 1.0)
        found = need(stage, about.values, about.sizes, how, data.lengths)
        peak = _peak(about, found, factor)
        if (terms := about.counted.get(stage.name)) is not None:  # what no formula says needs no correction
            factor = total(terms) / total(found.moments["training"])
            found = found.with_training(terms)
            peak = about.card.libraries + found.peak
        fits = peak <= about.card.room
        change = "" if fits else _change(about, stage, section, data, factor)
        tokens = tokens_of(stage, module, about.values[section], about.values, data)
        one = checkpoint_of(module, about.values[section], about.sizes, how)
        disk = disk_of(module, about.values[section], about.values, about.sizes, how, one)
        work = work_of(stage, module, about.values[section], about.values, data, about.sizes, how)
        timed = plan_time.key(kind, how, about.card, about.values["threads"])
        time = plan_time.time_of(timed, work, about.learnt.rates, about.card, about.tflops)
        processes = about.card.count if found.work and module != "base" else 1
        yield Line(found, peak, fits, change, disk, one, tokens, factor, kind, work, time, timed, processes)


def _kind(module: str) -> str:
    return KINDS.get(module, "preferences" if module in ("reward_model", "dpo") else "prompts")


def _peak(about: _Situation, found: Need, factor: float) -> float:
    return about.card.libraries * (1 if about.card.gpu else factor) + found.peak * factor


def _change(about: _Situation, stage: Stage, section: str, data: Facts, factor: float) -> str:
    """The cheapest with which the stage fits."""

    def fits(values: Mapping[str, Any]) -> bool:
        try:
            Training.model_validate(values["training"])
        except ValueError:  # settings that exclude each other
            return False
        found = need(stage, values, about.sizes, how_of(values, about.card), data.lengths)
        return _peak(about, found, factor) <= about.card.room

    return plan_change.cheapest(about.values, section, data.lengths.longest, fits, about.card.gpu)
