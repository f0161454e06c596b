"""One firing of a retrain: is it due, and if it is, a run, the gate, a person where one is asked for, and the books.

Nothing here knows Prefect: `flows.retrain.flow` fires on a schedule, `preflow retrain` by hand. Training starts from
`base` each time and never from the champion, as any run does; what is unchanged is not run again.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import champion, drift, dvc_watch, given, guards, launch, lease, profiles, promotion
from flows.request import Report, Wish
from flows.retrain import data, due
from flows.retrain.due import Memory
from rlhf.errors import Busy, DataRefused, NumericsError, Preempted, PreflowError
from tasks.config import ConfigError
from tasks.journal import home

NOTHING_NEW, SKIPPED, WAITING = "NothingNew", "Skipped", "Waiting"
PROMOTED, NOT_PROMOTED, REFUSED, FAILED = "Promoted", "NotPromoted", "DataRefused", "RunFailed"
STOPPED = "Stopped"
TOLD = (PROMOTED, NOT_PROMOTED, REFUSED, FAILED, WAITING)
"""Outcomes that somebody may want to hear of; the others say that nothing happened."""
PATIENCE = 7 * 24 * 3600
"""Seconds for which a run waits for a person."""
_SAME_AGAIN = (DataRefused.exit_code, NumericsError.exit_code)
"""Failures that the same data, parameters and code lead to again; others are tried again at the next slot."""


@dataclass(frozen=True)
class Order:
    """What a schedule, or a person, asks to be retrained."""

    profile: str = ""
    settings: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    """Folders whose new shards are brought into data/inbox; relative ones start at the checkout."""
    by_hand: bool = False
    """A person decides on what the gate lets through."""
    name: str = ""
    """Under which it is remembered; default: by profile and settings."""

    @property
    def key(self) -> str:
        """Name of files and of a deployment: of two orders never the same, and that of a key is itself."""
        parts = [self.name] if self.name else [*filter(None, [self.profile]), *sorted(self.settings)] or ["default"]
        plain = [re.sub(r"[^\w.=+-]+", "_", part) for part in parts]
        told_apart = [] if plain == parts else [hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:6]]
        return "+".join([*plain, *told_apart])

    def resolved(self, root: Path) -> profiles.Resolved:
        """Its configuration.

        Raises:
            ConfigError: it is wrong, or reads nothing of what is watched.
        """
        found = profiles.resolve(root, self.profile, self.settings)
        if self.watch and found.own_sources:
            raise ConfigError(
                f"--watch {self.watch[0]}: its shards go to data/inbox, which a profile or setting that brings data of "
                "its own (`sources`, `collect.<kind>`) does not read; leave --watch out and name the growing folder "
                f"itself, --set collect.preferences={self.watch[0].rstrip('/')}/preferences"
            )
        return found


@dataclass
class Outcome:
    """What came of a firing."""

    state: str
    message: str
    run: str = ""
    why: str = ""
    """What was new."""
    exit_code: int = 0
    drift: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    """Of the run, as `preflow run --json` prints it."""


def fire(
    root: Path,
    order: Order,
    cancel: threading.Event,
    *,
    say: Callable[[str], None],
    slot: datetime | None = None,
    flow_run: str = "",
    goes_on: Callable[[str], bool] = lambda _: True,
    show: Callable[[Report, Path], None] = lambda *_: None,
    on_begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Ask whether it is due, and do what is.

    Args:
        slot: when the schedule wanted it; None for a firing by hand.
        flow_run: its id in Prefect, by which a run that waits for a person is found again.
        goes_on: whether the flow run of a firing is still there.

    Raises:
        PreflowError: before a run began: a watched folder is away, params are wrong, no server.
    """
    try:
        lock = home(root) / "retrain" / f"{order.key}.lock"
        with dvc_watch.heeding(cancel), guards.held(lock, f"retrain {order.key}"):
            memory = Memory.read(root, order.key)
            if covered := _covered(memory, slot, goes_on):
                return Outcome(SKIPPED, covered)
            if memory.waits:
                say(f"run {memory.waits['run']} waits for nobody any more: not answered in time, or its firing is gone")
            memory.waits = {}
            resolved = order.resolved(root)
            data.update_imports(root)
            if not resolved.own_sources:  # which reads nothing of data/inbox
                data.bring(root, order.watch, say, cancel)
            resolved = given.settle(root, resolved, say)
            seen = due.look(root, resolved, memory)
            why = due.why(seen, memory.seen)
            if not why:
                memory.asked = time.time()
                memory.save(root, order.key)
                return Outcome(NOTHING_NEW, f"nothing new since run {memory.run}: {memory.outcome}", run=memory.run)
            say(f"retrain: {why}")
            digest = hashlib.sha256(json.dumps(asdict(seen), sort_keys=True).encode()).hexdigest()
            try:
                with lease.held(root, f"{resolved.registry}/{order.key}", digest, cancel, say) as held:
                    outcome = _run(root, order, why, resolved.registry, cancel, held, say, show, on_begin)
                    if held and (not outcome.exit_code or outcome.exit_code in _SAME_AGAIN):
                        held.end(digest, outcome.message)
            except lease.Answered as error:
                outcome = Outcome(NOTHING_NEW, str(error), run=memory.run, why=why)
            again = outcome.exit_code and outcome.exit_code not in _SAME_AGAIN
            memory.seen = {} if again else asdict(seen)
            memory.run, memory.outcome, memory.asked = outcome.run, outcome.message, time.time()
            if outcome.state == WAITING:
                memory.waits = {"run": outcome.run, "flow_run": flow_run, "until": time.time() + PATIENCE}
            memory.save(root, order.key)
            return outcome
    except Busy as error:
        return Outcome(SKIPPED, f"not now: {error}", exit_code=error.exit_code)


def decide(root: Path, run: str, approve: bool, reason: str, say: Callable[[str], None]) -> Outcome:
    """A person's answer on a run that waits: promote it, or not.

    Raises:
        PreflowError: it cannot be promoted any more; it then still waits.
    """
    done = promotion.promote(root, run, "", "", say) if approve else {}
    because = f" ({reason})" if reason else ""
    message = f"{done['reason']}, approved by hand{because}" if approve else f"refused by hand{because}"
    if done.get("unsent"):
        message += f"; {done['unsent']}"
    due.settle(root, run, message)
    return Outcome(PROMOTED if approve else NOT_PROMOTED, message, run=run, report={"promotion": done})


def waiting(root: Path, run: str = "", flow_run: str = "") -> dict[str, Any] | None:
    """The record of a run that waits for a person, by its name or that of its flow run; None where it does not.

    A flow run asks for itself only when it goes on, so it was answered in time.
    """
    for waits in due.waits(root):
        if flow_run and waits["flow_run"] == flow_run:
            return waits
        if run and waits["run"] == run and time.time() < waits["until"]:
            return waits
    return None


def _covered(memory: Memory, slot: datetime | None, goes_on: Callable[[str], bool]) -> str:
    """Why this slot has nothing to ask; "" where it has."""
    waits = memory.waits
    if waits and time.time() < waits["until"] and (not waits["flow_run"] or goes_on(waits["flow_run"])):
        return f"run {waits['run']} waits for a person: `preflow promote {waits['run']}`, or --refuse"
    if slot is not None and slot.timestamp() < memory.asked:
        asked = datetime.fromtimestamp(memory.asked, slot.tzinfo)
        return f"the slot of {slot:%H:%M:%S} is late: {asked:%H:%M:%S} has answered for it"
    return ""


def _run(
    root: Path,
    order: Order,
    why: str,
    registry: str,
    cancel: threading.Event,
    held: lease.Lease | None,
    say: Callable[[str], None],
    show: Callable[[Report, Path], None],
    on_begin: Callable[[], None],
) -> Outcome:
    drifted: dict[str, float] = {}

    def shown(report: Report, tree: Path) -> None:
        if report.gate is not None:
            drifted.update(drift.drift(root, tree, before))
        show(report, tree)

    before = _before(root, registry)
    wish = Wish(
        profile=order.profile,
        settings=order.settings,
        command=f"preflow retrain {order.key}",
        retrain=why,
        by_hand=order.by_hand,
        lease=held,
    )
    report = launch.run(root, wish, cancel, show=shown, say=say, on_begin=on_begin)
    if report.exit_code == 0 and report.promotion is None:
        report.exit_code = PreflowError.exit_code
        state, what = FAILED, "this graph has no gate: nothing can be promoted"
    else:
        state, what = _state(report)
    message = "; ".join(filter(None, [what, f"because of {why}", drift.sentence(drifted)]))
    told = asdict(report)
    return Outcome(state, message, report.run, why, report.exit_code, drifted, told)


def _before(root: Path, registry: str) -> dict[str, Any] | None:
    try:
        return champion.reigning(root, registry)
    except PreflowError:  # the run finds out for itself
        return None


def _state(report: Report) -> tuple[str, str]:
    if report.exit_code == DataRefused.exit_code:
        return REFUSED, _failure(report)
    if report.exit_code == Preempted.exit_code:
        stopped = [stage["name"] for stage in report.stages if stage["state"] == "stopped"]
        return STOPPED, f"stopped{' in ' * bool(stopped)}{', '.join(stopped)}; the next firing goes on from there"
    promotion_of = report.promotion or {}
    if report.exit_code or report.promotion is None:
        return FAILED, promotion_of.get("reason") or _failure(report)
    what = promotion_of["reason"] + (f"; {promotion_of['unsent']}" if promotion_of.get("unsent") else "")
    if promotion_of.get("waits"):
        return WAITING, what
    if "pushed" in promotion_of and report.gate:  # else it is what serves already
        return PROMOTED, f"{what}: {report.gate['reason']}"
    return NOT_PROMOTED, what


def _failure(report: Report) -> str:
    failed = [f"{stage['name']}: {stage['reason']}" for stage in report.stages if stage["state"] == "failed"]
    return "; ".join(failed) or "the run did not come to its gate"
