"""How long a stage will take: what it computes, at the rates that such stages reached on this machine.

Three rates are kept after each run, of a stage's own account of its seconds: seconds an operation of training and
scoring, seconds a token of sampling, and what is around both (imports, loading, saving, DVC). Where nothing was
measured a rate may be assumed, `--tflops`; sampling is bound by memory's speed, of which that says nothing.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from flows.plan.card import Card
from flows.plan.flops import Work
from flows.plan.measured import TIME
from rlhf.sizes import How

ASSUMED = 0.35
"""Share of a GPU's rate that passes are taken to reach where nobody measured it. An assumption."""
COMPUTING = ("seconds_train", "seconds_score")
SAMPLING = "seconds_sample"


@dataclass(frozen=True)
class Time:
    """Of one stage."""

    seconds: float | None = None
    """None: nothing is known."""
    assumed: bool = False
    """Whether it is at an assumed rate; else at measured ones."""
    without_sampling: bool = False
    """Whether sampling comes on top, for how long nobody knows."""


def key(kind: str, how: How, card: Card, threads: int) -> str:
    """What is timed together: `kind` is what memory is measured by, and a time is of one machine."""
    again = ", recomputed" if how.gradient_checkpointing else ""
    where = f"{card.count} × {threads} threads on {card.name}, {platform.node()}"
    return f"{TIME}{kind}{again}, {where}"


def measured(name: str, work: Work | None, cost: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """(planned, seconds) by rate, of what a stage's cost report says; of one that was resumed it says too little."""
    if work is None or "seconds" not in cost or SAMPLING not in cost or "resumed" in cost:
        return {}
    computing, sampling = sum(cost.get(one, 0.0) for one in COMPUTING), cost[SAMPLING]
    found = {
        f"{name}, operations": (work.flops, computing),
        f"{name}, sampled tokens": (work.sampled, sampling),
        f"{name}, around": (1.0, cost["seconds"] - computing - sampling),
    }
    return {rate: both for rate, both in found.items() if both[0] > 0}


def time_of(name: str, work: Work | None, rates: Mapping[str, float], card: Card, tflops: float | None) -> Time:
    """At measured rates, else at an assumed one; `rates` are seconds by what `measured` names."""
    if work is None:
        return Time()
    parts = ((work.flops, "operations"), (work.sampled, "sampled tokens"), (1.0, "around"))
    needed = [(amount, f"{name}, {rate}") for amount, rate in parts if amount > 0]
    if all(rate in rates for _, rate in needed):
        return Time(sum(amount * rates[rate] for amount, rate in needed))
    if tflops is None or not work.flops:
        return Time()
    return Time(work.flops / (tflops * 1e12 * ASSUMED * card.count), True, work.sampled > 0)


def total(times: list[Time]) -> Time:
    """One after another; without those of which nothing is known."""
    known = [one for one in times if one.seconds is not None]
    if not known:
        return Time()
    return Time(
        sum(one.seconds or 0.0 for one in known),
        any(one.assumed for one in known),
        any(one.without_sampling for one in known),
    )


def words(time: Time) -> str:
    """ "42 s", "12 min", "~3.4 h +"; "–" where nothing is known."""
    if time.seconds is None:
        return "–"
    return f"{'~' if time.assumed else ''}{duration(time.seconds)}{' +' if time.without_sampling else ''}"


def duration(seconds: float) -> str:
    """ "42 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 10 else 1}f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
