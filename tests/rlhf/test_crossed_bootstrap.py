"""The interval over prompts and seeds against its limits and against truths that simulated data have."""

import math

import numpy as np
import pytest

from rlhf import statistics
from rlhf.statistics import bootstrap_mean, crossed_bootstrap, crossed_resamples


def test_with_one_seed_it_is_the_bootstrap_over_prompts() -> None:
    values = np.random.default_rng(1).normal(size=40)
    crossed, plain = crossed_bootstrap(values[None, :], seed=5), bootstrap_mean(values, seed=5)
    assert list(crossed.as_dict().values()) == pytest.approx(list(plain.as_dict().values()), abs=1e-12)


def test_seeds_that_agree_add_nothing() -> None:
    values = np.random.default_rng(1).normal(size=40)
    crossed, plain = crossed_bootstrap(np.stack([values] * 3), seed=5), bootstrap_mean(values, seed=5)
    assert list(crossed.as_dict().values()) == pytest.approx(list(plain.as_dict().values()), abs=1e-12)


@pytest.mark.parametrize(("seeds", "t"), [(6, 2.571), (10, 2.262), (21, 2.086)])
def test_prompts_that_agree_leave_students_interval_over_seeds(seeds: int, t: float) -> None:
    """Without any spread over prompts the resamples of the widened seeds have the spread of Student's interval."""
    offsets = np.random.default_rng(2).normal(size=(seeds, 1))
    interval = crossed_bootstrap(np.repeat(offsets, 7, axis=1), seed=0, samples=20000)
    half = t * offsets.std(ddof=1) / math.sqrt(seeds)
    assert (interval.ci_high - interval.ci_low) / 2 == pytest.approx(half, rel=0.1)


def test_two_seeds_by_hand() -> None:
    """Means 0 and 2 lie 1 from the grand mean, widened by 12.706/1.960·√2 = 9.168: a quarter of resamples has both."""
    interval = crossed_bootstrap([[0.0, 0.0], [2.0, 2.0]], seed=0)
    assert list(interval.as_dict().values()) == pytest.approx([1.0, 1.0 - 9.168, 1.0 + 9.168], abs=1e-3)


@pytest.mark.parametrize("seeds", [3, 5])
def test_it_covers_the_truth_about_95_times_in_100_where_seeds_matter(seeds: int) -> None:
    rng = np.random.default_rng(0)
    hits = of_prompts = 0
    for trial in range(300):
        seed_effect, prompt_effect = rng.normal(size=(seeds, 1)), rng.normal(size=(1, 40))
        values = 1.0 + seed_effect + prompt_effect + rng.normal(size=(seeds, 40))
        interval, naive = crossed_bootstrap(values, trial, 400), bootstrap_mean(values.mean(axis=0), trial, 400)
        hits += interval.ci_low <= 1.0 <= interval.ci_high
        of_prompts += naive.ci_low <= 1.0 <= naive.ci_high
    assert 0.92 <= hits / 300 <= 0.99
    assert of_prompts / 300 < 0.7  # what leaving seeds out claims


def test_it_is_not_much_wider_than_need_be_where_seeds_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for trial in range(60):
        values = rng.normal(size=(1, 200)) + rng.normal(size=(5, 200))
        interval = crossed_bootstrap(values, trial, 400)
        ratios.append((interval.ci_high - interval.ci_low) / (2 * 1.96 * math.sqrt(1 / 200 + 1 / 1000)))
    assert 1.0 <= np.mean(ratios) < 1.3


def test_it_is_cut_into_chunks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(3, 9))
    whole = list(crossed_bootstrap(values, seed=1).as_dict().values())
    monkeypatch.setattr(statistics, "_CHUNK", 35)
    assert list(crossed_bootstrap(values, seed=1).as_dict().values()) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [[]], [[1.0, math.nan]]])
def test_what_is_no_table_of_numbers_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"seeds, prompts|not finite"):
        crossed_bootstrap(values, seed=0)


def test_one_draw_serves_every_difference() -> None:
    tables = np.random.default_rng(3).normal(size=(3, 4, 25))
    means = crossed_resamples(tables, seed=7)
    for i, j in ((0, 1), (2, 0), (1, 1)):
        ends = np.percentile(means[i] - means[j], [2.5, 97.5])
        whole = crossed_bootstrap(tables[i] - tables[j], seed=7)
        assert list(ends) == pytest.approx([whole.ci_low, whole.ci_high], abs=1e-12)
    with pytest.raises(ValueError, match="tables, seeds, prompts"):
        crossed_resamples(tables[0], seed=7)
