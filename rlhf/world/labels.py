"""Pairs that the simulated annotators label: every two different completions of a prompt, by one person each."""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rlhf.seeding import derive
from rlhf.world.annotators import PANELS, choice_probability
from rlhf.world.gold import gold_reward
from rlhf.world.kinds import KINDS


def can_label(meta: Mapping[str, Any]) -> bool:
    """Whether a prompt is of this world: only there the annotators have an opinion."""
    return meta.get("kind") in KINDS


def label(
    prompt: Mapping[str, Any], answers: Sequence[tuple[str, bool]], panel: str, seed: int
) -> list[dict[str, Any]]:
    """Preference rows from different answers (text, stopped) to one prompt row.

    `confidence` is the probability of the likelier choice: its mean is the accuracy no model of these labels can beat.
    `gold` is written down for reports (agreement of annotators and reward models with it), never for training.
    """
    meta = prompt["meta"]
    rng = random.Random(derive(seed, "labels", prompt["id"]))
    rows = []
    for first, second in combinations(answers, 2):
        annotator = rng.choice(PANELS[panel])
        probability = choice_probability(annotator, meta, first, second)
        chosen, rejected = (first, second) if rng.random() < probability else (second, first)
        rows.append(
            {
                "messages": prompt["messages"],
                "chosen": chosen[0],
                "rejected": rejected[0],
                "stopped": {"chosen": chosen[1], "rejected": rejected[1]},
                "annotator": annotator.name,
                "origin": "on_policy",
                "confidence": max(probability, 1.0 - probability),
                "gold": {"chosen": gold_reward(meta, *chosen), "rejected": gold_reward(meta, *rejected)},
            }
        )
    return rows
