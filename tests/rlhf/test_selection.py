import itertools
import math

import numpy as np
import pytest

from rlhf.selection import best_of_n, best_of_n_kl, random_overall, random_per_prompt, top_overall, top_per_prompt

WORKED = np.array(
    [[0.7, 0.3, 0.5, 0.2], [0.4, 0.8, 0.6, 0.5], [0.9, 0.3, 0.4, 0.7], [0.2, 0.5, 0.8, 0.6], [0.5, 0.4, 0.3, 0.6]]
)
"""The rejection-sampling example of the RLHF book, chapter 9."""
ALL = np.ones(WORKED.shape, dtype=bool)


def test_top_per_prompt_on_the_books_example() -> None:
    assert top_per_prompt(WORKED, ALL) == [(0, 0), (1, 1), (2, 0), (3, 2), (4, 3)]


def test_top_overall_on_the_books_example() -> None:
    picks = top_overall(WORKED, ALL, 5)
    assert {4 * prompt + index for prompt, index in picks} == {8, 5, 14, 0, 11}
    assert [WORKED[pick] for pick in picks] == [0.9, 0.8, 0.8, 0.7, 0.7]
    assert picks[1] == (1, 1)  # of equals, the earlier


def test_only_finished_completions_are_candidates_of_either_arm() -> None:
    """The cut-off ones have the highest reward here; prompt 1 has no other."""
    rewards = np.array([[9.0, 1.0, 2.0], [9.0, 9.0, 9.0], [0.0, 9.0, -1.0]])
    finished = np.array([[False, True, True], [False, False, False], [True, False, True]])
    assert top_per_prompt(rewards, finished) == [(0, 2), (2, 0)]
    assert top_overall(rewards, finished, 2) == [(0, 2), (0, 1)]
    for seed in range(20):
        picks = random_per_prompt(finished, seed)
        assert [prompt for prompt, _ in picks] == [0, 2]
        assert all(finished[pick] for pick in [*picks, *random_overall(finished, 3, seed)])
    with pytest.raises(ValueError, match="k=5: expected 1 to 4, the finished"):
        random_overall(finished, 5, 0)


def test_random_twins_have_the_shape_of_what_they_control() -> None:
    many = np.ones((400, 4), dtype=bool)
    picks = random_per_prompt(many, seed=1)
    assert [prompt for prompt, _ in picks] == list(range(400))
    shares = np.bincount([index for _, index in picks], minlength=4) / 400
    assert shares.min() > 0.18 and shares.max() < 0.32  # 0.25 ± 3 standard errors
    overall = random_overall(ALL, 6, seed=1)
    assert len(set(overall)) == 6 and all(0 <= p < 5 and 0 <= i < 4 for p, i in overall)
    assert random_per_prompt(many, seed=1) == picks != random_per_prompt(many, seed=2)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_average_over_all_draws_without_replacement(n: int) -> None:
    generator = np.random.default_rng(0)
    proxy, gold = generator.normal(size=(3, 5)), generator.normal(size=(3, 5))
    for row in range(3):
        draws = [max(draw, key=lambda i: proxy[row, i]) for draw in itertools.combinations(range(5), n)]
        assert best_of_n(proxy, gold, n)[row] == pytest.approx(np.mean([gold[row, i] for i in draws]))


def test_best_of_n_shares_ties() -> None:
    """Proxies 1 1 0, n = 2: the two ones toss a coin, the other pairs take their one: (15 + 10 + 20)/3."""
    assert best_of_n(np.array([[1.0, 1.0, 0.0]]), np.array([[10.0, 20.0, 90.0]]), 2)[0] == pytest.approx(15.0)


def test_best_of_n_limits() -> None:
    assert best_of_n(WORKED, WORKED, 1) == pytest.approx(WORKED.mean(axis=1))
    assert best_of_n(WORKED, WORKED, 4) == pytest.approx(WORKED.max(axis=1))
    curve = [best_of_n(WORKED, WORKED, n).mean() for n in (1, 2, 3, 4)]
    assert curve == sorted(curve)


def test_kl_of_best_of_n() -> None:
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_kl_of_best_of_n_against_a_large_uniform_alphabet() -> None:
    """Best of n over M ordered outcomes, P(i) = (i/M)^n − ((i−1)/M)^n: its KL to uniform tends to the bound."""
    size, n = 4000, 8
    edges = (np.arange(size + 1) / size) ** n
    probabilities = np.diff(edges)
    probabilities = probabilities[probabilities > 0]
    assert (probabilities * np.log(probabilities * size)).sum() == pytest.approx(best_of_n_kl(n), abs=1e-3)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ValueError, match="1 of 20 rewards are not finite"):
        top_per_prompt(np.where(WORKED == 0.9, np.nan, WORKED), ALL)
    with pytest.raises(ValueError, match="k=21: expected 1 to 20"):
        top_overall(WORKED, ALL, 21)
    with pytest.raises(ValueError, match="n=5: expected 1 to 4"):
        best_of_n(WORKED, WORKED, 5)
