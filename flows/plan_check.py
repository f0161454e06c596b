"""A run beside its plan: refused before its first stage where it cannot fit, measured after its last."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from flows import plan_measured, profiles
from flows.plan import Plan, how_of, plan
from flows.plan_card import GIB, card_of
from flows.plan_stages import module_of
from flows.request import Run
from rlhf.errors import PreflowError
from tasks.config import ConfigError


def refuse_hopeless(this: Run, todo: Collection[str], say: Callable[[str], None]) -> None:
    """Before the first stage: what is beyond the memory or the disk that there is.

    Between that and what had better be left free a run begins, with a line on it.

    Raises:
        PreflowError: a stage takes more than all of the memory, or the disk has no room; it names the cheapest change.
    """
    try:
        found = _planned(this, todo)
    except ConfigError:
        return  # of a checkpoint that nobody can read the stage itself says what is the matter
    tight = [line for line in found.lines if not line.fits]
    hopeless = [line for line in tight if line.peak > found.card.size]
    if hopeless:
        first = hopeless[0]
        raise PreflowError(
            f"{first.need.stage} takes about {first.peak / GIB:.1f} GiB at its peak and {found.card.name} "
            f"is all there is: {first.change or 'no setting that preflow knows makes it fit'}; `preflow plan` has all "
            "stages, --no-plan begins anyway"
        )
    if found.free is not None and found.disk > found.free:
        raise PreflowError(
            f"the run's checkpoints and models take about {found.disk / GIB:.1f} GiB and {found.free / GIB:.1f} are "
            "free: make room (`preflow prune --older-than 30d --dry-run`), or begin anyway with --no-plan"
        )
    for line in tight:
        say(f"{line.need.stage} will come near the end of {found.card.name}: about {line.peak / GIB:.1f} GiB")


def remember(this: Run, costs: Mapping[str, Mapping[str, float]], ran: Collection[str]) -> None:
    """After the last stage: what each took beside what was said; no trouble with it is worth any to a run."""
    with suppress(OSError, PreflowError, LookupError, ValueError):
        found = _planned(this, ran)
        measured = {}
        for line in found.lines:
            cost = costs.get(line.need.stage, {})
            took = cost.get("peak_cuda_gib" if found.card.gpu else "peak_memory_gib")
            named = module_of(this.graph.stages[line.need.stage])
            if took and named:
                how = how_of(profiles.whole(this.resolved), found.card)
                measured[plan_measured.key(named[0], found.card.gpu, how)] = (line.peak / line.factor, took * GIB)
        plan_measured.keep(this.owner, measured)


def _planned(this: Run, stages: Collection[str]) -> Plan:
    uses = [name for name in stages if module_of(this.graph.stages[name])]
    if not uses:
        raise ConfigError("no stage uses a model")
    values = profiles.whole(this.resolved)
    return plan(this.tree, this.graph, values, card_of("", values["training"]["nproc"]), only=uses)
