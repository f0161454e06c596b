"""Dynamic sampling: an update made of groups that have something to teach (DAPO, 2503.14476, section 3.2).

A group whose completions all have the same reward has advantages of 0. It is dropped, and fresh prompts take its place
until the update is full or the tries are used up; what could not be filled trains on the smaller batch.
What an update measures of its rollouts (reward, kl, length, stop_rate, zero_std_groups, and the KL that an adaptive
coefficient goes by) is of the groups kept, as these are what it learns from; `reward_sampled` is of all.
Differs from the paper: a group is dropped whenever its rewards are equal, not only where all are right or all wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rlhf.errors import NumericsError
from rlhf.rewards import Asked, Scored
from rlhf.sampler import Completion


@dataclass(frozen=True)
class Answered:
    """P prompts, the G completions of each, group after group, and their rewards."""

    prompts: list[Asked]
    completions: list[Completion]
    scored: Scored

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.completions) // len(self.prompts)

    def groups(self, wanted: Sequence[int]) -> "Answered":
        """Only these prompts, in this order; without the scorers' figures, which are of all."""
        rows = [group * self.group_size + number for group in wanted for number in range(self.group_size)]
        return Answered(
            [self.prompts[group] for group in wanted],
            [replace(self.completions[row], prompt_index=place // self.group_size) for place, row in enumerate(rows)],
            Scored(
                self.scored.total[rows],
                {name: one[rows] for name, one in self.scored.components.items()},
            ),
        )


def with_contrast(answered: Answered) -> list[int]:
    """Numbers of the groups whose rewards are not all equal, and all numbers."""
    rewards = answered.scored.total.view(-1, answered.group_size)
    differ = (rewards != rewards[:, :1]).any(dim=1) & rewards.isfinite().all(dim=1)
    return differ.nonzero().squeeze(-1).tolist()


def scorable(answered: Answered) -> Answered:
    """Without the prompts of which a completion could not be scored. Raises NumericsError where none is left."""
    finite = answered.scored.total.view(-1, answered.group_size).isfinite().all(dim=1)
    if finite.all():
        return answered
    if not finite.any():
        raise NumericsError(
            f"each of {len(answered.prompts)} prompts has a completion whose reward is no number, expected at least 1 "
            "without: mend what gives the rewards, or take more prompts an update"
        )
    kept = answered.groups(finite.nonzero().squeeze(-1).tolist())
    return replace(kept, scored=replace(kept.scored, figures=answered.scored.figures))


def fill(
    answer: Callable[[int, int, int], Answered | None], wanted: int, tries: int
) -> tuple[Answered | None, dict[str, float]]:
    """Up to `wanted` groups with contrast, and what is to be said of all groups sampled, dropped ones too.

    The latter: `dropped_groups`, the share dropped; `reward_sampled`, the mean reward; and the scorers' figures, of the
    attempts that had them, weighted by completions.

    `answer(attempt, first, count)` samples `count` prompts of the update's own order from number `first` on, fewer
    where there are no more, and gives None where there is none. The result is None where no group had any contrast.
    """
    kept: list[Answered] = []
    said: list[tuple[int, Mapping[str, float]]] = []
    sampled = found = 0
    for attempt in range(tries):
        answered = answer(attempt, sampled, wanted - found)
        if answered is None:
            break
        sampled += len(answered.prompts)
        total = answered.scored.total
        mean = {"reward_sampled": total[total.isfinite()].mean().item()}
        said.append((len(answered.completions), answered.scored.figures | mean))
        groups = with_contrast(answered)
        found += len(groups)
        if groups:
            kept.append(answered.groups(groups))
        if found == wanted:
            break
    about = _averages(said) | {"dropped_groups": 1.0 - found / max(1, sampled)}
    return _joined(kept) if kept else None, about


def _averages(said: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    averages = {}
    for name in {name: None for _, figures in said for name in figures}:
        having = [(weight, figures[name]) for weight, figures in said if name in figures]
        averages[name] = sum(weight * value for weight, value in having) / sum(weight for weight, _ in having)
    return averages


def _joined(parts: Sequence[Answered]) -> Answered:
    prompts = [prompt for part in parts for prompt in part.prompts]
    completions = [one for part in parts for one in part.completions]
    names = parts[0].scored.components
    return Answered(
        prompts,
        [replace(one, prompt_index=row // parts[0].group_size) for row, one in enumerate(completions)],
        Scored(
            torch.cat([part.scored.total for part in parts]),
            {name: torch.cat([part.scored.components[name] for part in parts]) for name in names},
        ),
    )
