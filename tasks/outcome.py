"""What became of a stage in one run, and the order in which policies are told of: for the flow and the tracking."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tasks.redact import logged

State = Literal["ran", "cached", "failed", "stopped", "skipped"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of one run."""

    name: str
    state: State
    """`cached`: its key was unchanged or its outputs came from the run cache; `stopped`: the run was ended while it
    worked; `skipped`: something before it failed, or the run was ended before it began."""
    seconds: float = 0.0
    reason: str = ""
    """Why it failed, was stopped or was skipped, one sentence."""
    exit_code: int = 0
    """0 unless it failed or was stopped; then what `preflow` ends with (`rlhf.errors`)."""

    def __post_init__(self) -> None:
        """What is told of a stage goes to Prefect, MLflow, reports and files."""
        object.__setattr__(self, "reason", logged(self.reason))


STORY = ("base", "sft", "random_control", "rejection_sampling", "dpo", "rl", "champion")


def in_story_order(policies: Iterable[str]) -> list[str]:
    """Names of policies in the order in which they come to be; others behind, by name."""
    return sorted(policies, key=lambda name: (STORY.index(name) if name in STORY else len(STORY), name))
