"""A run beside its plan: refused before its first stage where it cannot fit, measured after its last."""

import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from flows import plan_measured, plan_time, profiles
from flows.plan import Line, Plan, plan
from flows.plan_card import GIB, card_of
from flows.plan_stages import module_of
from flows.plan_work import KEPT
from flows.request import Run
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.journal import home

SURE = ("weights", "moments", "gradients", "other models")
"""Terms that no length of a row has a part in."""


def refuse_hopeless(this: Run, todo: Collection[str], say: Callable[[str], None]) -> None:
    """Before the first stage: what is beyond all the memory or disk that there is, whatever the rows are.

    All else, which hangs on how long rows are and what is on the disk by then, is a line; of the disk each training
    looks again before its first step. No trouble with planning is worth any to a run: of a checkpoint that nobody can
    read the stage itself says what is the matter.

    Raises:
        PreflowError: a stage takes more than all of the memory, and it names the cheapest change; or one checkpoint of
            it is larger than what is free.
    """
    try:
        found = _planned(this, todo)
    except Exception:  # of whatever kind: files of others are read
        return
    for line in found.lines:
        least = sum(line.need.terms.get(name, 0.0) for name in SURE)
        if least > found.card.size:
            raise PreflowError(
                f"{line.need.stage} takes {least / GIB:.1f} GiB for weights, gradients and moments alone, and "
                f"{found.card.name} is all there is; {_with(line)}. `preflow plan` has all stages, --no-plan begins "
                "anyway"
            )
    room = _room(this)
    for line in found.lines:
        if (least := line.disk / (KEPT + 1)) > room:
            raise PreflowError(
                f"{line.need.stage} takes {least / GIB:.1f} GiB of disk for one checkpoint alone, and {room / GIB:.1f} "
                "are free: make room; `preflow prune --older-than 30d --dry-run` says what old runs hold, --no-plan "
                "begins anyway"
            )
    for line in found.lines:
        if not line.fits:
            say(f"{line.need.stage} may take {line.peak / GIB:.1f} GiB of {found.card.name}; {_with(line)}")
    if found.free is not None and found.disk > found.free:
        say(
            f"checkpoints and models may take {found.disk / GIB:.1f} GiB and {found.free / GIB:.1f} are free: "
            "`preflow prune --older-than 30d --dry-run` says what old runs hold"
        )


def _room(this: Run) -> float:
    """Free where checkpoints and outputs are written, which may be two disks: then the larger room."""
    return max(float(shutil.disk_usage(place).free) for place in (this.tree, home(this.owner)))


def _with(line: Line) -> str:
    return f"it would fit with {line.change}" if line.change else "no setting that preflow knows makes it fit"


def remember(this: Run, costs: Mapping[str, Mapping[str, float]], ran: Collection[str]) -> None:
    """After the last stage: what each of those that ran on this machine took beside what was said.

    No trouble with it is worth any to a run.
    """
    with suppress(Exception):
        found = _planned(this, ran)
        measured: list[tuple[str, tuple[float, float]]] = []
        for line in found.lines:
            cost = costs.get(line.need.stage, {})
            took = cost.get("peak_cuda_gib" if found.card.gpu else "peak_memory_gib")
            if took:  # torch counts its tensors on a GPU, the system all of a process
                said = line.need.peak + (0.0 if found.card.gpu else found.card.libraries)
                measured.append((line.kind, (said, took * GIB)))
            measured += plan_time.measured(line.timed, line.work, cost).items()
        plan_measured.keep(this.owner, measured)


def _planned(this: Run, stages: Collection[str]) -> Plan:
    uses = [name for name in stages if module_of(this.graph.stages[name])]
    if not uses:
        raise ConfigError("no stage uses a model")
    values = profiles.whole(this.resolved)
    values["base"]["model"] = None  # its files lie in the tree by now
    return plan(this.tree, this.graph, values, card_of("", values["training"]["nproc"]), only=uses, owner=this.owner)
