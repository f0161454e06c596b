"""The report on a reward model, on scores worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from rlhf.reward_report import report


def row(group: str, chosen: str, rejected: str, gold: tuple[float, float], confidence: float) -> dict[str, Any]:
    return {
        "group": group,
        "chosen": chosen,
        "rejected": rejected,
        "gold": {"chosen": gold[0], "rejected": gold[1]},
        "confidence": confidence,
    }


ROWS = [
    row("a", "w w", "w", (1.0, 0.5), 0.9),  # right, chosen longer
    row("a", "w", "w w", (0.2, 0.8), 0.8),  # right about the choice, which gold would not make
    row("b", "w", "w", (0.5, 0.5), 0.6),  # a tie
    row("b", "w w", "w", (1.0, 0.0), 0.9),  # wrong
]
SCORES = np.array([[2.0, 0.0], [1.0, 0.0], [0.3, 0.3], [0.0, 1.0]])


def test_accuracy_counts_ties_half_and_knows_its_ceiling() -> None:
    found = report(SCORES, ROWS, seed=0)
    assert found["accuracy"]["mean"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found["ceiling"] == pytest.approx(0.8)
    assert found["by_length"]["chosen_longer"] == {"accuracy": 0.5, "pairs": 2}
    assert found["by_length"]["same_length"] == {"accuracy": 0.5, "pairs": 1}


def test_agreement_with_gold_is_over_pairs_that_gold_tells_apart() -> None:
    # Pair 1 agrees; pair 2 does not (gold prefers the rejected side); pair 3 is a tie of gold; pair 4 does not.
    assert report(SCORES, ROWS, seed=0)["gold_agreement"] == pytest.approx(1 / 3)


def test_interval_is_over_prompts_not_pairs() -> None:
    # Two prompts, one with all pairs right and one with all wrong: drawing prompts gives 0, ½ or 1, so the interval is
    # the widest there is however many pairs each prompt has.
    rows = [row("a", "x", "y", (1, 0), 1.0)] * 50 + [row("b", "x", "y", (1, 0), 1.0)] * 50
    scores = np.array([[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50)
    found = report(scores, rows, seed=0)["accuracy"]
    assert (found["mean"], found["ci_low"], found["ci_high"]) == (0.5, 0.0, 1.0)


def test_a_model_that_claims_what_happens_is_calibrated() -> None:
    margin = math.log(3)  # σ = ¾
    rows = [row(str(index), "x", "y", (1, 0), 1.0) for index in range(40)]
    scores = np.array([[margin, 0.0]] * 30 + [[0.0, margin]] * 10)
    assert report(scores, rows, seed=0)["calibration_error"] == pytest.approx(0.0, abs=1e-9)
    sure = report(scores * 100, rows, seed=0)["calibration_error"]
    assert sure == pytest.approx(0.25, abs=1e-6)  # claims certainty, is right three times of four


def test_slices_of_the_pairs() -> None:
    extra = [
        {"annotator": "ann", "origin": "offline"}, {"annotator": "ann", "origin": "on_policy"},
        {"annotator": "bob", "origin": "offline"}, {"origin": "offline"},
    ]  # fmt: skip
    found = report(SCORES, [one | more for one, more in zip(ROWS, extra, strict=True)], seed=0)
    assert found["by_annotator"] == {
        "ann": {"accuracy": 1.0, "pairs": 2}, "bob": {"accuracy": 0.5, "pairs": 1},
        "unknown": {"accuracy": 0.0, "pairs": 1},
    }  # fmt: skip
    assert found["by_origin"]["offline"] == {"accuracy": 0.5, "pairs": 3}
    assert "by_source" not in found
    assert [(part["confidence"], part["accuracy"], part["pairs"]) for part in found["by_confidence"]] == [
        (0.6, 0.5, 1), (0.8, 1.0, 1), (0.9, 0.5, 2),
    ]  # fmt: skip
    assert (found["reference_mean"], found["margin_mean"]) == (pytest.approx(3.3 / 4), pytest.approx(0.5))


def test_length_differences_are_binned_in_words() -> None:
    rows = [row(str(number), "w " * chosen, "w " * rejected, (1, 0), 1.0) for number, (chosen, rejected) in
            enumerate([(1, 9), (1, 3), (4, 5), (5, 4), (6, 4), (9, 4), (10, 4), (20, 4)])]  # fmt: skip
    scores = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    found = report(scores, rows, seed=0)["by_length_difference"]
    assert [(part["chosen_is"], part["accuracy"], part["pairs"]) for part in found] == [
        ("6+ shorter", 1.0, 1), ("2-5 shorter", 1.0, 1), ("about as long", 1.0, 2), ("2-5 longer", 0.0, 2),
        ("6+ longer", 0.0, 2),
    ]  # fmt: skip
