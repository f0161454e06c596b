"""The rollout store: every completion sampled for selection, with what it was sampled from.

One JSON object a line, keys sorted, so that equal rollouts are equal bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf.records import read_rows, write_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One prompt with one sampled completion."""

    prompt_id: str
    """`id` of the prompt's row."""
    group: str
    """`group` of the prompt's row, which splits never cut."""
    prompt_ids: list[int]
    completion_ids: list[int]
    """Sampled ids, the stop token included where the completion stopped."""
    logprobs: list[float]
    """Log-probability of each completion id under the tempered policy it was sampled from."""
    stop_reason: str
    """"stop" or "length"."""
    text: str
    """The completion decoded, without stop and control tokens."""
    reward: float | None
    """Reward given to the completion; None before scoring."""
    policy: str
    """Digest of the policy that was sampled."""


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write rollouts to a JSONL file, making its folder where it is missing."""
    write_rows(path, map(asdict, rollouts))


def read_rollouts(path: Path) -> Iterator[Rollout]:
    """Read the rollouts of a JSONL file in order. Raises ValueError with file and line where a line is not one."""
    for number, row in enumerate(read_rows(path), start=1):
        try:
            rollout = Rollout(**row)
        except TypeError as error:
            raise ValueError(f"{path.name} line {number} is not a rollout: {error}") from error
        yield rollout
