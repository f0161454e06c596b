"""A run beside its plan: refused before its first stage where it cannot fit, measured after its last."""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.plan import measured, time
from flows.plan.card import GIB, card_of
from flows.plan.measured import Measured
from flows.plan.plan import Line, Plan, plan
from flows.plan.stages import module_of
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.graph import Graph
from tasks.journal import home

SURE = ("weights", "moments", "gradients", "other models")
"""Terms that no length of a row has a part in."""


@dataclass(frozen=True)
class Site:
    """Where stages run, and what is planned there."""

    owner: Path
    """The project that keeps what was measured."""
    tree: Path
    """The checkout whose data is read."""
    graph: Graph
    settings: Callable[[], dict[str, Any]]
    """All of them, as `flows.profiles.whole` gives them."""


def refuse_hopeless(site: Site, todo: Collection[str], say: Callable[[str], None]) -> None:
    """Before the first stage: what is beyond all the memory or disk that there is, whatever the rows are.

    All else, which hangs on how long rows are and what is on the disk by then, is a line; of the disk each training
    looks again before its first step. No trouble with planning is worth any to a run: of a checkpoint that nobody can
    read the stage itself says what is the matter.

    Raises:
        PreflowError: a stage takes more than all of the memory, and it names the cheapest change; or one checkpoint of
            it is larger than what is free.
    """
    try:
        found = _planned(site, todo)
    except Exception:  # of whatever kind: files of others are read
        return
    for line in found.lines:
        least = sum(line.need.terms.get(name, 0.0) for name in SURE)
        if least > found.card.size:
            further = ", those of further models too" if line.need.terms.get("other models") else ""
            raise PreflowError(
                f"{line.need.stage} takes {least / GIB:.1f} GiB for weights, gradients and moments alone{further}, and "
                f"{found.card.name} is all there is; {_with(line)}. `preflow plan` has all stages, --no-plan begins "
                "anyway"
            )
    room = _room(site)
    for line in found.lines:
        if line.checkpoint > room:
            raise PreflowError(
                f"{line.need.stage} takes {line.checkpoint / GIB:.1f} GiB of disk for one checkpoint alone, and "
                f"{room / GIB:.1f} are free: make room; `preflow prune --older-than 30d --dry-run` says what old runs "
                "hold, --no-plan begins anyway"
            )
    for line in found.lines:
        if not line.fits:
            say(f"{line.need.stage} may take {line.peak / GIB:.1f} GiB of {found.card.name}; {_with(line)}")
    if found.free is not None and found.disk > found.free:
        say(
            f"checkpoints and models may take {found.disk / GIB:.1f} GiB and {found.free / GIB:.1f} are free: "
            "`preflow prune --older-than 30d --dry-run` says what old runs hold"
        )


def _room(site: Site) -> float:
    """Free where checkpoints and outputs are written, which may be two disks: then the larger room."""
    return max(float(shutil.disk_usage(place).free) for place in (site.tree, home(site.owner)))


def _with(line: Line) -> str:
    return f"it would fit with {line.change}" if line.change else "no setting that preflow knows makes it fit"


def remember(site: Site, costs: Mapping[str, Mapping[str, float]], ran: Collection[str]) -> list[Measured]:
    """After the last stage: keep what each of those that ran on this machine took beside what was said.

    No trouble with it is worth any to a run.

    Returns:
        What was kept of their memory, which counts on other machines too.
    """
    try:
        found = _planned(site, ran)
        memory, times = list[Measured](), list[Measured]()
        for line in found.lines:
            cost = costs.get(line.need.stage, {})
            took = cost.get("peak_cuda_gib" if found.card.gpu else "peak_memory_gib")
            if took:  # torch counts its tensors on a GPU, the system all of a process
                said = line.need.peak + (0.0 if found.card.gpu else found.card.libraries)
                memory.append((line.kind, (said, took * GIB / line.processes)))
            times += time.measured(line.timed, line.work, cost).items()
        measured.keep(site.owner, [*memory, *times])
    except Exception:  # of whatever kind: files of others are read
        return []
    return memory


def _planned(site: Site, stages: Collection[str]) -> Plan:
    uses = [name for name in stages if module_of(site.graph.stages[name])]
    if not uses:
        raise ConfigError("no stage uses a model")
    values = site.settings()
    values["base"]["model"] = None  # its files lie in the tree by now
    return plan(site.tree, site.graph, values, card_of("", values["training"]["nproc"]), only=uses, owner=site.owner)
