"""What became of a stage in one run: told by the flow, shown by the tracking."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ran", "cached", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of one run."""

    name: str
    state: State
    """`cached`: its key was unchanged or its outputs came from the run cache; `skipped`: something before it failed."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed or was skipped, one sentence."""
    exit_code: int = 0
    """0 unless it failed; then what `preflow` ends with (`rlhf.errors`)."""
