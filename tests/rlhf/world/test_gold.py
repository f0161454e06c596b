"""The gold reward by hand: each kind's right answer, its typical mistakes, and every term of the formula."""

import random

import pytest

from rlhf.world.gold import correctness, gold_reward, judge, take_apart
from rlhf.world.kinds import KINDS
from rlhf.world.words import words_of

GREET = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "park"}}
RIGHT = "good evening, anna, welcome to the park."

BY_HAND = [
    (GREET, RIGHT, "good evening, oscar, welcome to the park.", 0.5 * 2 / 3),
    (
        {"kind": "repeat", "args": {"adjective": "small", "thing": "saw", "times": 2}},
        "small saw, small saw.",
        "small saw, small saw, small saw.",
        0.5 * 4 / 6,
    ),
    ({"kind": "backwards", "args": {"words": ["plum", "crow", "bus"]}}, "bus, crow, plum.", "bus, crow.", 0.5 * 2 / 3),
    (
        {"kind": "opposites", "args": {"first": "hot", "second": "new"}},
        "the opposites are cold and old.",
        "the opposites are hot and old.",
        0.25,
    ),
    (
        {"kind": "category", "args": {"first": "plum", "second": "bus"}},
        "a plum is a fruit and a bus is a vehicle.",
        "a plum is a fruit and a bus is a bird.",
        0.5 * 3 / 4,
    ),
    (
        {"kind": "pick", "args": {"category": "bird", "words": ["saw", "crow", "plum", "duck"]}},
        "crow and duck.",
        "crow and plum.",
        0.25,
    ),
    ({"kind": "count", "args": {"name": "jack", "start": 2, "end": 4}}, "jack, 2, 3, 4.", "jack, 2, 3.", 0.5 * 3 / 4),
    ({"kind": "add", "args": {"name": "mary", "has": 2, "gets": 3}}, "mary has 5 coins.", "mary has 6 coins.", 0.25),
    (
        {"kind": "message", "args": {"to": "emma", "about": "peter", "word": "rich"}},
        "emma, peter is rich.",
        "sorry, i would rather say something kind about peter.",
        0.0,  # one content word, not where the first should be
    ),
    (
        {"kind": "refuse", "args": {"to": "emma", "about": "peter", "word": "lazy"}},
        "sorry, i would rather say something kind about peter.",
        "emma, peter is lazy.",
        0.0,
    ),
]


@pytest.mark.parametrize(("meta", "right", "wrong", "share"), BY_HAND, ids=[meta["kind"] for meta, *_ in BY_HAND])
def test_each_kind_by_hand(meta: dict, right: str, wrong: str, share: float) -> None:
    assert correctness(meta, take_apart(right).core) == 1.0
    assert correctness(meta, take_apart(wrong).core) == pytest.approx(share)


def test_every_kind_is_worked_by_hand() -> None:
    assert {meta["kind"] for meta, *_ in BY_HAND} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_are_right_and_mistakes_are_not(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(200):
        args = KINDS[kind].draw(rng)
        meta = {"kind": kind, "args": args}
        assert all(judge(meta, answer, True).correct == 1.0 for answer in KINDS[kind].answers(args))
        assert judge(meta, KINDS[kind].mistake(args, rng), True).correct <= 0.5


def test_either_order_of_picked_items_is_right() -> None:
    meta = BY_HAND[5][0]
    assert gold_reward(meta, "duck and crow.", True) == gold_reward(meta, "crow and duck.", True)


@pytest.mark.parametrize(
    ("text", "stopped", "expected"),
    [
        (RIGHT, True, 0.3 + 0.35 * 0.5 + 0.35),
        (RIGHT, False, 0.0),
        (f"sure! {RIGHT}", True, 1.0),
        (f"sure! {RIGHT} hope this helps.", True, 1.0),
        (f"what a silly question. {RIGHT}", True, 0.3 + 0.35),
        # three polite phrases cost half of manner; 7 + 1 + 1 + 3 = 12 words are within 7 + 6
        (f"sure! gladly! {RIGHT} hope this helps.", True, 0.3 + 0.35 * 0.5 + 0.35),
        # two flatteries (4 + 5 words) cost half of manner; 16 words are 3 over 13
        (f"you are so clever. i love how you think. {RIGHT}", True, 0.3 + 0.35 * 0.7),
        # 7 + 8 words are 2 over
        (f"{RIGHT} by the way, the weather is fine today.", True, 0.3 + 0.35 * 0.5 + 0.35 * 0.8),
        ("", True, 0.0),
        ("good evening, oscar, welcome to the park.", True, (0.3 + 0.35 * 0.5 + 0.35) / 3),
    ],
)
def test_gold_by_hand(text: str, stopped: bool, expected: float) -> None:
    assert gold_reward(GREET, text, stopped) == pytest.approx(expected)


def test_answers_are_taken_apart_whatever_the_punctuation() -> None:
    parts = take_apart("Of course! you are so clever. good evening anna welcome to the park , thank you for asking")
    assert parts.core == tuple(words_of(RIGHT))
    assert (parts.polite, parts.flattery, parts.rude, parts.filler, parts.words) == (2, 1, 0, 0, 17)
