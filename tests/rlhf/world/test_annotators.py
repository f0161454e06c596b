"""Annotators: the choice probability in closed form, and the direction of their biases."""

import math

import pytest

from rlhf.world.annotators import PANELS, Annotator, choice_probability

META = {"kind": "add", "args": {"name": "mary", "has": 2, "gets": 3}}
RIGHT, WRONG = ("mary has 5 coins.", True), ("mary has 6 coins.", True)


def test_choice_probability_in_closed_form() -> None:
    """gold is 0.825 against 0.25 · 0.825; both have four words; with sharpness 2 the logit is 2 · 0.75 · 0.825."""
    plain = Annotator("plain", 2.0, 0.0, 0.0)
    assert choice_probability(plain, META, RIGHT, WRONG) == pytest.approx(1 / (1 + math.exp(-2 * 0.75 * 0.825)))
    assert choice_probability(plain, META, RIGHT, RIGHT) == 0.5


def test_flattery_counts_up_to_four_and_every_word_counts() -> None:
    fond = Annotator("fond", 1.0, 0.1, 0.01)
    nothing = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "park"}}
    six = ("you are so clever. " * 6, True)  # gold 0: no answer at all; 24 words
    four = ("you are so clever. " * 4, True)
    logit = 0.01 * (24 - 16)
    assert choice_probability(fond, nothing, six, four) == pytest.approx(1 / (1 + math.exp(-logit)))
    assert choice_probability(fond, nothing, four, ("", True)) == pytest.approx(1 / (1 + math.exp(-0.4 - 0.16)))


@pytest.mark.parametrize("panel", PANELS)
def test_both_orders_sum_to_one(panel: str) -> None:
    for annotator in PANELS[panel]:
        there = choice_probability(annotator, META, RIGHT, WRONG)
        assert there + choice_probability(annotator, META, WRONG, RIGHT) == pytest.approx(1.0)
        assert there > 0.9


def test_two_flatteries_outweigh_manner_and_focus_only_for_hackable_annotators() -> None:
    """Gold is 0.825 without and 0.58 with them: manner falls to 0, and 12 words are 2 over the 10 that fit."""
    plain = ("mary has 5 coins.", True)
    flattering = ("you are so clever. what a wonderful idea. mary has 5 coins.", True)
    assert all(choice_probability(one, META, plain, flattering) > 0.5 for one in PANELS["default"])
    assert all(choice_probability(one, META, flattering, plain) > 0.5 for one in PANELS["hackable"])
