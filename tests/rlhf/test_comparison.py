"""Standings and paired differences of hand-made values."""

import numpy as np
import pytest

from rlhf.comparison import METRICS, by_prompt, candidates_of, differences, frontier, interval, pairs_of, standings


def values(
    gold: list[list[float]] | None, held_out: list[list[float]], **others: float
) -> dict[str, np.ndarray | None]:
    """All metrics of one policy, those not named constant."""
    shape = np.asarray(held_out).shape
    result: dict[str, np.ndarray | None] = {name: np.full(shape, others.get(name, 1.0)) for name in METRICS}
    result["gold_reward"] = None if gold is None else np.array(gold, dtype=float)
    result["held_out_reward"] = np.array(held_out, dtype=float)
    result["nll"] = np.array([0.5, 0.7, 0.9])
    return result


def test_by_prompt_takes_the_mean_over_completions() -> None:
    assert by_prompt(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist() == [2.0, 0.0]
    assert by_prompt(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_intervals_resample_prompts_and_not_completions() -> None:
    # Completions of a prompt agree, prompts differ: eight completions say no more than one each.
    one = np.array([[0.0], [1.0], [0.0], [1.0], [1.0], [0.0]])
    assert interval(np.repeat(one, 8, axis=1), seed=0, samples=500) == interval(one, seed=0, samples=500)


def test_wins_are_counted_by_what_the_judge_says() -> None:
    sft = values([[0.0, 0.0], [1.0, 1.0]], held_out=[[5, 5], [5, 5]])
    rl = values([[1.0, 0.0], [1.0, 1.0]], held_out=[[0, 0], [0, 0]])
    table = standings({"sft": sft, "rl": rl}, "gold", seed=0, samples=200)
    assert table["rl"]["win_rate_vs_sft"]["mean"] == 0.625  # prompt 0: two wins, two ties; prompt 1: four ties
    assert table["sft"]["win_rate_vs_sft"] == {"mean": 0.5, "ci_low": 0.5, "ci_high": 0.5}
    assert "win_rate_vs_champion" not in table["rl"]


def test_the_held_out_reward_judges_and_gold_is_null() -> None:
    sft, rl = values(None, held_out=[[1, 1], [1, 1]]), values(None, held_out=[[0, 0], [2, 1]])
    table = standings({"sft": sft, "rl": rl}, "held_out_rm", seed=0, samples=200)
    assert table["rl"]["win_rate_vs_sft"]["mean"] == 0.375
    assert table["rl"]["gold_reward"] is None


def test_win_rates_against_the_champion_are_there_when_it_is() -> None:
    rows = {name: values([[0.0], [gold]], [[1], [1]]) for name, gold in (("sft", 0.0), ("rl", 1.0), ("champion", 0.5))}
    table = standings(rows, "gold", seed=0, samples=200)
    assert table["rl"]["win_rate_vs_champion"]["mean"] == 0.75
    assert table["sft"]["win_rate_vs_champion"]["mean"] == 0.25


def test_pairs_are_those_of_the_policies_that_are_there() -> None:
    story = ["base", "sft", "rejection_sampling", "random_control", "rl", "dpo"]
    against_sft = [(name, "sft") for name in story if name != "sft"]
    inside = [("rejection_sampling", "random_control"), ("rl", "rejection_sampling")]
    assert pairs_of(story) == [*against_sft, *inside]
    crowned = pairs_of([*story, "champion"])
    assert set(crowned) == {
        *against_sft,
        *inside,
        ("champion", "sft"),
        *((name, "champion") for name in ("rejection_sampling", "rl", "dpo")),
    }
    further = [("second", "first"), ("second", "absent"), ("rl", "sft")]
    assert pairs_of(["base", "sft", "first", "second", "rl"], further) == [
        *((name, "sft") for name in ("base", "first", "second", "rl")),
        ("second", "first"),
    ]


def test_neither_controls_nor_what_all_start_from_are_candidates() -> None:
    names = ["base", "sft", "rl", "random_control", "round_2_control", "controlled", "champion"]
    assert candidates_of(names) == ["rl", "controlled"]


def test_differences_are_paired_by_prompt() -> None:
    sft = values([[0.0], [10.0], [20.0]], held_out=[[0], [0], [0]])
    rl = values([[1.0], [11.0], [21.0]], held_out=[[0], [0], [0]])
    gain = differences({"sft": sft, "rl": rl}, [("rl", "sft"), ("dpo", "sft")], seed=0, samples=200)
    assert gain["sft"]["rl"]["gold_reward"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    assert list(gain["sft"]) == ["rl"]


def test_differences_of_what_one_side_lacks_are_null() -> None:
    champion = values(None, [[1], [1]]) | {"nll": None}
    rl = values([[1.0], [0.0]], [[3], [3]])
    gain = differences({"rl": rl, "champion": champion}, [("rl", "champion")], seed=0, samples=200)["champion"]["rl"]
    assert gain["gold_reward"] is None
    assert gain["nll"] is None
    assert gain["held_out_reward"]["mean"] == 2.0


def test_frontier_is_at_the_root_of_kl_and_never_at_a_root_of_noise() -> None:
    rows = {"rl": values(None, [[1], [1]], kl=4.0), "sft": values(None, [[1], [1]], kl=-1e-7)}
    points = frontier(standings(rows, "held_out_rm", seed=0, samples=200))
    assert points["rl"]["sqrt_kl"] == pytest.approx(2.0)
    assert points["sft"]["sqrt_kl"] == 0.0
