"""What a run is to do, handed to who does it: the Prefect flow, or `flows.unchanged` where nothing has to run."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.runner import SIDE_BY_SIDE, Place
from tasks.config.pools import Pool
from tasks.graph import Graph
from tasks.outcome import StageResult


def nothing(*_: Any) -> None:
    """For callbacks that nobody wants."""


@dataclass(frozen=True)
class Work:
    """One run: what to bring up to date, and who wants to hear of it."""

    place: Place
    graph: Graph
    todo: Collection[str]
    """Stages to hand to DVC; the others are known to be unchanged and cost nothing."""
    force: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)
    slots: int = SIDE_BY_SIDE
    """Stages side by side."""
    patience: float = 120.0
    """Seconds to wait for a stage that another process holds."""
    planned: bool = True
    """Workers refuse a stage that cannot fit."""
    before: Callable[[str], None] = nothing
    """Called in a stage's turn, before DVC looks at it; its PreflowError fails the stage."""
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """Stages that workers do, with the Prefect work pool of each."""
    commit: str = ""
    """What the run began with; workers begin with it too."""
    on_start: Callable[[str], None] = nothing
    on_line: Callable[[str, str], None] = nothing
    on_result: Callable[[StageResult], None] = nothing
    on_flow: Callable[[str], None] = nothing
    """Gets the id of the flow run before the first stage starts."""
    on_trouble: Callable[[str], None] = nothing
    """Gets a line when Prefect itself failed."""
