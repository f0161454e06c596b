"""Labelled pairs: every two answers once, the stated confidence, labels that depend on prompt and seed alone."""

import pytest

from rlhf.world.annotators import PANELS, choice_probability
from rlhf.world.labels import can_label, label

META = {"kind": "add", "args": {"name": "mary", "has": 2, "gets": 3}}
PROMPT = {
    "id": "p",
    "meta": META,
    "messages": [{"role": "user", "content": "mary has 2 coins and gets 3 more. how many?"}],
}
ANSWERS = [("mary has 5 coins.", True), ("mary has 6 coins.", True), ("mary has 5 coins. mary has", False)]


def test_every_two_answers_are_compared_once() -> None:
    rows = label(PROMPT, ANSWERS, "default", seed=0)
    (first, _), (second, _), (third, _) = ANSWERS
    expected = {frozenset(pair) for pair in ((first, second), (first, third), (second, third))}
    assert {frozenset((row["chosen"], row["rejected"])) for row in rows} == expected
    texts = dict(ANSWERS)
    for row in rows:
        assert row["stopped"] == {"chosen": texts[row["chosen"]], "rejected": texts[row["rejected"]]}
        annotator = next(one for one in PANELS["default"] if one.name == row["annotator"])
        sides = [(row[side], row["stopped"][side]) for side in ("chosen", "rejected")]
        probability = choice_probability(annotator, META, *sides)
        assert row["confidence"] == pytest.approx(max(probability, 1 - probability))


def test_gold_is_written_down_by_hand() -> None:
    """Right and plain is 0.3 + 0.35 · 0.5 + 0.35; wrong has a quarter of it (one word of two); cut off has 0."""
    gold = {}
    for row in label(PROMPT, ANSWERS, "default", seed=0):
        gold |= {row[side]: row["gold"][side] for side in ("chosen", "rejected")}
    assert gold == pytest.approx({"mary has 5 coins.": 0.825, "mary has 6 coins.": 0.825 / 4, ANSWERS[2][0]: 0.0})


def test_labels_follow_the_seed_and_the_prompt() -> None:
    def picks(seed: int) -> list[list[str]]:
        prompts = [PROMPT | {"id": str(number)} for number in range(30)]
        return [[row["chosen"] for row in label(prompt, ANSWERS, "hackable", seed)] for prompt in prompts]

    assert picks(0) == picks(0) != picks(1)


def test_only_this_world_can_be_labelled() -> None:
    assert can_label(META)
    assert not can_label({})
    assert not can_label({"kind": "poem"})
