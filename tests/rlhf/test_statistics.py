"""Intervals and rates against hand-worked numbers, textbook limits and laws."""

import math

import numpy as np
import pytest

from rlhf.statistics import (
    Interval,
    bootstrap_mean,
    correlation,
    expected_calibration_error,
    paired_bootstrap,
    reliability_bins,
    win_rate,
)


def test_interval_as_dict_is_what_scores_json_holds() -> None:
    assert Interval(0.5, 0.4, 0.6).as_dict() == {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6}


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.5, size=900)
    interval = bootstrap_mean(values, seed=7, samples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.mean - interval.ci_low == pytest.approx(half, rel=0.06)
    assert interval.ci_high - interval.mean == pytest.approx(half, rel=0.06)


def test_bootstrap_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(rng.normal(1.0, 1.0, size=60), seed=trial, samples=400)
        hits += interval.ci_low <= 1.0 <= interval.ci_high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_is_a_function_of_its_seed_and_of_nothing_else() -> None:
    values = [0.1, 0.9, 0.4, 0.3, 0.8]
    first = bootstrap_mean(values, seed=1)
    np.random.seed(123)
    assert bootstrap_mean(values, seed=1) == first
    assert bootstrap_mean(values, seed=2) != first


def test_bootstrap_does_not_depend_on_how_it_is_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.1, 0.9, 0.4, 0.3, 0.8]
    whole = bootstrap_mean(values, seed=1)
    monkeypatch.setattr("rlhf.statistics._CHUNK", 35)
    assert bootstrap_mean(values, seed=1) == whole


def test_constant_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([3.0, 3.0, 3.0], seed=0) == Interval(3.0, 3.0, 3.0)


def test_pairing_removes_the_spread_of_the_prompts() -> None:
    difficulty = np.random.default_rng(1).normal(0, 10, size=200)
    gain = np.random.default_rng(2).normal(0.5, 0.1, size=200)
    paired = paired_bootstrap(difficulty + gain, difficulty, seed=0)
    assert paired.mean == pytest.approx(gain.mean())
    assert paired.ci_low > 0.45
    assert bootstrap_mean(difficulty, seed=0).ci_high - bootstrap_mean(difficulty, seed=0).ci_low > 1


def test_paired_difference_changes_sign_when_swapped() -> None:
    a, b = [1.0, 4.0, 2.0, 8.0], [0.5, 5.0, 1.0, 3.0]
    forward, backward = paired_bootstrap(a, b, seed=4), paired_bootstrap(b, a, seed=4)
    assert forward.mean == -backward.mean == 1.375
    assert forward.ci_low == pytest.approx(-backward.ci_high)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least one number"), ([[1.0, 2.0]], "shape"), ([1.0, float("nan")], "1 values of 2")],
)
def test_bootstrap_refuses_what_has_no_mean(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, seed=0)


def test_paired_bootstrap_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)


def test_win_rate_by_hand() -> None:
    # prompt 0: 3>1, 3>2, 1=1 (half), 1<2 -> 2.5 of 4; prompt 1: all tied -> half
    assert win_rate([[3, 1], [5, 5]], [[1, 2], [5, 5]]).tolist() == [0.625, 0.5]


def test_win_rate_with_groups_of_different_size() -> None:
    assert win_rate([[2.0]], [[1.0, 2.0, 3.0, 0.0]]).tolist() == [0.625]


def test_win_rates_of_two_sides_add_to_one_and_self_play_is_one_half() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 3, size=(20, 4)), rng.integers(0, 3, size=(20, 4))
    np.testing.assert_allclose(win_rate(a, b) + win_rate(b, a), 1.0)
    np.testing.assert_array_equal(win_rate(a, a), 0.5)


def test_win_rate_refuses_other_prompts() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(3, 1\)"):
        win_rate([[1.0], [2.0]], [[1.0], [2.0], [3.0]])


def test_calibration_by_hand() -> None:
    probabilities, outcomes = [0.95, 0.85, 0.85, 0.10], [1, 1, 0, 0]
    bins = reliability_bins(probabilities, outcomes)
    assert [(part.low, part.count, part.frequency) for part in bins] == [(0.1, 1, 0.0), (0.8, 2, 0.5), (0.9, 1, 1.0)]
    # |0 - .10| / 4 + |.5 - .85| * 2 / 4 + |1 - .95| / 4
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(0.025 + 0.175 + 0.0125)


def test_honest_claims_are_calibrated_and_boastful_ones_are_not() -> None:
    rng = np.random.default_rng(6)
    honest = rng.uniform(size=20_000)
    outcomes = (rng.uniform(size=20_000) < honest).astype(float)
    assert expected_calibration_error(honest, outcomes) < 0.02
    boastful = np.clip(0.5 + 2 * (honest - 0.5), 0, 1)
    assert expected_calibration_error(boastful, outcomes) > 0.1


def test_a_claim_of_certainty_falls_into_the_last_bin() -> None:
    (part,) = reliability_bins([1.0], [1.0])
    assert (part.low, part.high, part.count) == (0.9, 1.0, 1)


def test_calibration_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        reliability_bins([1.2], [1.0])


def test_correlation_by_hand_and_at_its_limits() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert correlation([1, 1, 1], [1, 2, 3]) == 0.0
