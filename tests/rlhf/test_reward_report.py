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
