import pytest
import torch

from rlhf.dynamic_sampling import Answered, fill, with_contrast
from rlhf.rewards import Asked, Scored
from rlhf.sampler import Completion

GROUP = 3


def answered(first: int, rewards: list[list[float]]) -> Answered:
    """One prompt a list of rewards; prompt n asks `n`, its completions say 10n, 10n + 1, 10n + 2."""
    prompts = [Asked([first + place], [], {}) for place in range(len(rewards))]
    completions = [
        Completion(place, [10 * (first + place) + number], [-0.5], "stop")
        for place in range(len(rewards))
        for number in range(GROUP)
    ]
    total = torch.tensor(rewards).flatten()
    return Answered(prompts, completions, Scored(total, {"verifier": 2 * total}))


def test_only_groups_with_unequal_rewards_have_contrast() -> None:
    assert with_contrast(answered(0, [[1, 1, 1], [0, 1, 1], [0, 0, 0], [0.5, 0.5, 0.25]])) == [1, 3]


class Answers:
    """Answers prompt n with rewards that differ where `teaches` says so; keeps what it was asked."""

    def __init__(self, teaches: set[int], prompts: int = 100) -> None:
        self.teaches, self.prompts = teaches, prompts
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, attempt: int, first: int, count: int) -> Answered | None:
        self.asked.append((attempt, first, count))
        last = min(first + count, self.prompts)
        if first >= last:
            return None
        return answered(
            first, [[number, 0, 0] if number in self.teaches else [1, 1, 1] for number in range(first, last)]
        )


def test_dropped_groups_are_replaced_by_fresh_prompts_until_the_batch_is_full() -> None:
    answers = Answers({1, 3, 5, 6, 7})
    found, dropped = fill(answers, 4, 9)
    assert answers.asked == [(0, 0, 4), (1, 4, 2), (2, 6, 1)]
    assert dropped == pytest.approx(3 / 7)
    assert found is not None
    assert [prompt.ids for prompt in found.prompts] == [[1], [3], [5], [6]]
    assert [one.prompt_index for one in found.completions] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [one.ids[0] // 10 for one in found.completions[::GROUP]] == [1, 3, 5, 6]
    assert found.scored.total.tolist() == [1, 0, 0, 3, 0, 0, 5, 0, 0, 6, 0, 0]
    assert found.scored.components["verifier"].tolist() == [2 * one for one in found.scored.total.tolist()]


def test_what_cannot_be_filled_in_the_tries_there_are_stays_smaller() -> None:
    found, dropped = fill(Answers({1, 9}), 4, 2)
    assert found is not None and [prompt.ids for prompt in found.prompts] == [[1]]
    assert dropped == pytest.approx(6 / 7)


def test_running_out_of_prompts_is_no_error() -> None:
    answers = Answers({2}, prompts=5)
    found, dropped = fill(answers, 4, 9)
    assert found is not None and [prompt.ids for prompt in found.prompts] == [[2]]
    assert dropped == pytest.approx(4 / 5)


def test_nothing_with_contrast_is_none() -> None:
    assert fill(Answers(set()), 4, 3) == (None, 1.0)
