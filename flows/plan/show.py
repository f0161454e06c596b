"""A plan as a table and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flows.costs import count
from flows.plan import time
from flows.plan.card import GIB, RESERVE
from flows.plan.exact import Exact
from flows.plan.plan import Line, Plan
from rlhf.footprint import total

TERMS = ("weights", "moments", "gradients", "activations", "logits", "keys and values", "other models")
LAST = ("peak", "when", "fits", "disk", "tokens", "time", "last time")
SHORT = {"keys and values": "cache", "other models": "others"}


def lines(plan: Plan, seconds: Mapping[str, float], counted: Mapping[str, Exact], width: int) -> Iterator[str]:
    """What a person reads; `seconds` are those of earlier runs by stage, `counted` what --exact says."""
    processes = f"{plan.card.count} processes, each " if plan.card.count > 1 else ""
    room = plan.card.room / GIB
    model = f"{count(plan.sizes.parameters)} weights, {plan.how.method}, {plan.how.dtype}"
    yield f"{model}, {processes}on {plan.card.name}; GiB at the peak, of {room:.3g} ({RESERVE:.0%} left free)"
    terms = [name for name in TERMS if any(line.need.terms.get(name, 0.0) > 0.005 * GIB for line in plan.lines)]
    if width < 20 + 10 * (len(terms) + 6):
        terms = []
    header = ["stage", *(SHORT.get(name, name) for name in terms), *LAST]
    rows = [_row(line, terms, room, seconds.get(line.need.stage)) for line in plan.lines]
    if counted:
        header.insert(header.index("peak") + 1, "exact")
        for row, line in zip(rows, plan.lines, strict=True):
            row.insert(header.index("exact"), _difference(counted.get(line.need.stage)))
    yield from _aligned([header, *rows])
    for name, one in counted.items():
        if one.why:
            yield f"{name} was not counted, its peak is the formulas': {one.why}"
    for line in plan.lines:
        if not line.fits:
            change = f"it would with {line.change}" if line.change else "nothing that preflow knows makes it fit"
            yield f"{line.need.stage} does not fit; {change}"
    if plan.free is not None and plan.disk > plan.free:
        yield f"disk: {plan.disk / GIB:.1f} GiB are needed and {plan.free / GIB:.1f} are free"
    for whose in dict.fromkeys(plan.assumed.values()):
        kinds = ", ".join(kind for kind in plan.assumed if plan.assumed[kind] == whose)
        yield f"assumed, as this data is not here yet: lengths of {kinds} ({whose})"
    if any(line.factor != 1.0 and not _is_counted(counted, line) for line in plan.lines):
        yield "corrected by what such stages took here before"
    yield from _times(plan)


def _is_counted(counted: Mapping[str, Exact], line: Line) -> bool:
    return line.need.stage in counted and counted[line.need.stage].terms is not None


def _times(plan: Plan) -> Iterator[str]:
    """The sum, and what it stands on."""
    whole = time.total([line.time for line in plan.lines])
    unknown = [line.need.stage for line in plan.lines if line.time.seconds is None]
    if whole.seconds is None:
        hint = "; --tflops takes the GPU's rate from its data sheet" if plan.card.gpu else ""
        yield f"time: no such stages ran on this machine yet{hint}"
        return
    without = f"; without {', '.join(unknown)}, of which too little is known" if unknown else ""
    yield f"in all {time.words(whole)}, one after another{without}"
    if whole.assumed:
        share = f"{time.ASSUMED:.0%} of {plan.tflops:g} TFLOP/s a GPU"
        yield f"~: assumed, {share} where nothing was measured, and all answers at full length"
    if whole.without_sampling:
        yield "+: and sampling, whose time is not known before it was measured"


def as_json(plan: Plan, seconds: Mapping[str, float], counted: Mapping[str, Exact]) -> dict[str, Any]:
    """All of it, in bytes and seconds."""
    stages = [
        {
            "stage": line.need.stage,
            "parameters": line.need.parameters,
            "trained": line.need.trained,
            "terms": line.need.terms,
            "moment": line.need.moment,
            "peak": line.peak,
            "fits": line.fits,
            "over": max(0.0, line.peak - plan.card.room),
            "change": line.change,
            "disk": line.disk,
            "tokens": line.tokens,
            "factor": line.factor,
            "flops": None if line.work is None else line.work.flops,
            "seconds": line.time.seconds,
            "seconds_assumed": line.time.assumed,
            "seconds_without_sampling": line.time.without_sampling,
            "exact": asdict(counted[line.need.stage]) if line.need.stage in counted else None,
            "seconds_before": seconds.get(line.need.stage),
        }
        for line in plan.lines
    ]
    return {
        "sizes": asdict(plan.sizes), "how": asdict(plan.how), "card": asdict(plan.card), "stages": stages,
        "seconds": time.total([line.time for line in plan.lines]).seconds, "tflops": plan.tflops,
        "disk": plan.disk, "free": plan.free, "assumed": list(plan.assumed), "fits": plan.fits,
    }  # fmt: skip


def _row(line: Line, terms: list[str], room: float, before: float | None) -> list[str]:
    over = line.peak / GIB - room
    return [
        line.need.stage,
        *(_gib(line.need.terms.get(name, 0.0)) for name in terms),
        _gib(line.peak),
        line.need.moment,
        "yes" if line.fits else f"no, {over:.1f} over",
        _gib(line.disk),
        count(line.tokens) if line.tokens else "–",
        time.words(line.time),
        "–" if before is None else f"{before:.0f} s",
    ]


def _difference(one: Exact | None) -> str:
    """Counted beside the formulas, of training; "formula" where it could not be."""
    if one is None:
        return "–"
    return "formula" if one.terms is None else f"{total(one.terms) / one.formula - 1:+.0%}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    left = {0, *(rows[0].index(name) for name in ("when", "fits"))}  # words
    for row in rows:
        cells = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _gib(size: float) -> str:
    value = size / GIB
    return "–" if value < 0.005 else f"{value:.2f}" if value < 10 else f"{value:.0f}"
