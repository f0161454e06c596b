from dataclasses import replace

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
    total = torch.tensor(rewards).flatten().float()
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
    found, about = fill(answers, 4, 9)
    assert answers.asked == [(0, 0, 4), (1, 4, 2), (2, 6, 1)]
    assert about["dropped_groups"] == pytest.approx(3 / 7)
    assert found is not None
    assert [prompt.ids for prompt in found.prompts] == [[1], [3], [5], [6]]
    assert [one.prompt_index for one in found.completions] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [one.ids[0] // 10 for one in found.completions[::GROUP]] == [1, 3, 5, 6]
    assert found.scored.total.tolist() == [1, 0, 0, 3, 0, 0, 5, 0, 0, 6, 0, 0]
    assert found.scored.components["verifier"].tolist() == [2 * one for one in found.scored.total.tolist()]


def test_what_cannot_be_filled_in_the_tries_there_are_stays_smaller() -> None:
    found, about = fill(Answers({1, 9}), 4, 2)
    assert found is not None and [prompt.ids for prompt in found.prompts] == [[1]]
    assert about["dropped_groups"] == pytest.approx(6 / 7)


def test_running_out_of_prompts_is_no_error() -> None:
    answers = Answers({2}, prompts=5)
    found, about = fill(answers, 4, 9)
    assert found is not None and [prompt.ids for prompt in found.prompts] == [[2]]
    assert about["dropped_groups"] == pytest.approx(4 / 5)


def test_nothing_with_contrast_is_none() -> None:
    assert fill(Answers(set()), 4, 3) == (None, {"reward_sampled": 1.0, "dropped_groups": 1.0})


def test_reward_and_figures_are_also_told_of_all_that_was_sampled() -> None:
    """Of 4 + 3 groups only that of prompt 1 is kept: its mean is 1/3, those dropped have 1. A figure of some attempts
    counts by their completions alone."""
    answers, figures = Answers({1}), [{"judge_tie": 0.25}, {"judge_tie": 0.5, "judge_undecided": 0.125}]

    def judged(attempt: int, first: int, count: int) -> Answered | None:
        found = answers(attempt, first, count)
        assert found is not None
        return replace(found, scored=replace(found.scored, figures=figures[attempt]))

    found, about = fill(judged, 4, 2)
    assert found is not None and found.scored.total.mean().item() == pytest.approx(1 / 3)
    assert about["reward_sampled"] == pytest.approx((1 / 3 + 6) / 7)
    assert about["judge_tie"] == pytest.approx((4 * 0.25 + 3 * 0.5) / 7)
    assert about["judge_undecided"] == 0.125
