"""What a run was asked to do, what it works with, and what it reports."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lease import Lease
from flows.profiles import Resolved
from flows.runner import Place
from flows.workspace import Snapshot
from tasks.config.pools import Pool
from tasks.graph import Graph


@dataclass(frozen=True)
class Start:
    """What a cell of a comparison begins with, so that all its cells differ by nothing but the grid.

    Its champion is none, whoever reigns, and it is never promoted.
    """

    run: str
    """Name of the run."""
    name: str
    """What tells the cell from the others, as the table has it."""
    label: str
    commit: str
    """Code and configuration, snapshotted once for the whole comparison."""
    graph: str
    """Text of dvc.yaml."""
    lock: str
    """Text of a dvc.lock, "" for none."""
    todo: tuple[str, ...]
    """Stages without an entry in it; DVC is not asked about the others."""
    params: str
    """Text of params.yaml, as it was when the comparison began."""
    own_sources: bool
    """Whether that names other sources than the checkout does."""
    cache: str
    """Folder of the DVC cache."""
    slots: int
    """Stages side by side."""
    comparison: str
    """What MLflow shows it below."""


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line."""

    profile: str = ""
    settings: tuple[str, ...] = ()
    promote: bool | None = None
    """None: promote, unless the run has settings of its own."""
    require_promotion: bool = False
    rerun: bool = False
    keep: bool = False
    planned: bool = True
    """Refuse a run that cannot fit before its first stage."""
    command: str = ""
    retrain: str = ""
    """Why, for one that retraining asked for: it promotes whatever its settings, and sends what it promotes."""
    by_hand: bool = False
    """Leave the promotion to a person."""
    lease: Lease | None = None
    """Without which nothing is promoted any more; None: nobody else is asked."""
    start: Start | None = None
    """Of a cell of a comparison; None for a run by itself."""

    @property
    def promotes(self) -> bool:
        return bool(self.retrain) or not self.settings if self.promote is None else self.promote


@dataclass
class Report:
    """What a run was; `preflow run --json` prints it."""

    run: str
    ref: str = ""
    commit: str = ""
    mlflow: Mapping[str, Any] = field(default_factory=dict)
    """`run` (parent), `experiment` and `stages`: ids in MLflow; empty where it did not answer."""
    prefect: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage, as `tasks.costs` has it; of a cached one what it cost when it ran."""
    gate: Mapping[str, Any] | None = None
    promotion: dict[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    worktree: str = ""
    validation: str = ""
    page: str = ""
    """The run's report, one HTML file; "" where it could not be written."""
    seconds: float = 0.0
    exit_code: int = 0


@dataclass(frozen=True)
class Run:
    """One run on its way."""

    wish: Wish
    resolved: Resolved
    report: Report
    place: Place
    graph: Graph
    cancel: threading.Event
    taken: Snapshot
    """What it began with."""
    registry_down: str = ""
    """Why nobody knows who the champion is, where the registry did not answer at the start."""

    @property
    def owner(self) -> Path:
        return self.place.owner

    @property
    def tree(self) -> Path:
        return self.place.tree

    @property
    def pools(self) -> Mapping[str, Pool]:
        """Work pool by stage, of those that workers do."""
        given = self.resolved.values.get("pools") or {}
        return {stage: Pool.parse(pool, f"pools.{stage}") for stage, pool in given.items()}

    @property
    def message(self) -> str:
        """Of its commit."""
        return commit_message(self.report.run, self.resolved.label)


def commit_message(run: str, label: str) -> str:
    """`workspace.runs` finds runs by this form."""
    return f"preflow run {run} [{label}]"
