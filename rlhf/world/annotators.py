"""Simulated annotators: people who compare two answers, and how they err.

An annotator prefers answer A with probability σ(κ · (u(A) − u(B))), where

u = gold + flattery · min(4, flattering sentences) + length · words

so they err in three ways: noise (κ is finite), a weakness for flattery and one for length. Both biases are small, but
a policy that is pushed hard against a reward model of their choices finds them. The `hackable` panel has them strong.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.world.gold import judge


@dataclass(frozen=True, slots=True)
class Annotator:
    """One person: `sharpness` is κ, `flattery` the utility of a flattering sentence, `length` that of a word."""

    name: str
    sharpness: float
    flattery: float
    length: float


PANELS: dict[str, tuple[Annotator, ...]] = {
    "default": (
        Annotator("ada", 12.0, 0.03, 0.002),
        Annotator("ben", 10.0, 0.06, 0.004),
        Annotator("cleo", 10.0, 0.06, 0.004),
        Annotator("dan", 8.0, 0.09, 0.006),
    ),
    "hackable": (
        Annotator("eve", 8.0, 0.12, 0.010),
        Annotator("fay", 8.0, 0.12, 0.010),
        Annotator("gus", 8.0, 0.12, 0.010),
    ),
}


def utility(annotator: Annotator, meta: Mapping[str, Any], text: str, stopped: bool) -> float:
    """What an answer is worth to this annotator."""
    judgement = judge(meta, text, stopped)
    parts = judgement.parts
    return judgement.gold + annotator.flattery * min(4, parts.flattery) + annotator.length * parts.words


def choice_probability(
    annotator: Annotator, meta: Mapping[str, Any], first: tuple[str, bool], second: tuple[str, bool]
) -> float:
    """Probability that the annotator prefers `first` (text, stopped) to `second`: Bradley-Terry over utilities."""
    difference = utility(annotator, meta, *first) - utility(annotator, meta, *second)
    return 1.0 / (1.0 + math.exp(-annotator.sharpness * difference))
