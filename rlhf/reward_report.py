"""Whether a reward model can be trusted: its scores against held-out choices, confidence, length and gold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf.models import RewardModel
from rlhf.pairs import encode_pairs
from rlhf.scoring import rewards_of
from rlhf.statistics import Floats, Interval, correlation, expected_calibration_error, reliability_bins


def score_pairs(
    reward_model: RewardModel, rows: Sequence[Mapping[str, Any]], unfinished_reward: float, max_tokens: int
) -> Floats:
    """Scores of chosen and rejected, [pairs, 2]; a side that was cut off has the fixed `unfinished_reward`."""
    texts, stopped = [], []
    for pair, row in zip(encode_pairs(reward_model.chat, rows), rows, strict=True):
        ended = row.get("stopped") or {"chosen": True, "rejected": True}
        texts += [(pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids)]
        stopped += [bool(ended["chosen"]), bool(ended["rejected"])]
    rewards = rewards_of(reward_model, texts, stopped, unfinished_reward, max_tokens)
    return np.array(rewards.tolist()).reshape(-1, 2)


def report(scores: Floats, rows: Sequence[Mapping[str, Any]], seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Accuracy (ties half) with a 95% interval over prompts, its ceiling, calibration against σ(scale · margin), by
    |margin| and by which side is longer, correlation of score and length, and agreement with gold where it is known.

    The ceiling is the mean probability of the likelier choice of the annotators, where that is known: the accuracy that
    no model of these labels can exceed on average. `scale` undoes the normalisation of scores: Bradley-Terry claims are
    made in the units the model was trained in.
    """
    margins = scores[:, 0] - scores[:, 1]
    right = 0.5 + 0.5 * np.sign(margins)
    accuracy = _over_prompts(right, [row["group"] for row in rows], seed)
    # A model's claim is about the side it prefers: P(preferred is chosen) = σ(|margin|) ≥ ½.
    claims = 1 / (1 + np.exp(-scale * np.abs(margins)))
    words = np.array([[len(row[side].split()) for side in ("chosen", "rejected")] for row in rows], dtype=float)
    found: dict[str, Any] = {
        "pairs": len(rows),
        "accuracy": accuracy.as_dict(),
        "calibration_error": expected_calibration_error(claims, right),
        "margin_mean": float(margins.mean()),
        "margin_std": float(margins.std()),
        "length_correlation": correlation(scores.ravel(), words.ravel()),
        "reliability": [
            {"claimed": part.confidence, "accuracy": part.frequency, "pairs": part.count}
            for part in reliability_bins(claims, right)
            if part.count
        ],
        "by_length": _by_length(right, words),
    }
    if all("confidence" in row for row in rows):
        found["ceiling"] = float(np.mean([row["confidence"] for row in rows]))
    if all("gold" in row for row in rows):
        gold = np.array([[row["gold"]["chosen"], row["gold"]["rejected"]] for row in rows])
        found["gold_correlation"] = correlation(scores.ravel(), gold.ravel())
        differ = gold[:, 0] != gold[:, 1]
        agree = 0.5 + 0.5 * np.sign(margins[differ]) * np.sign(gold[differ, 0] - gold[differ, 1])
        found["gold_agreement"] = float(agree.mean()) if differ.any() else None
    return found


def _by_length(right: Floats, words: Floats) -> dict[str, dict[str, float]]:
    groups = {
        "chosen_longer": words[:, 0] > words[:, 1],
        "same_length": words[:, 0] == words[:, 1],
        "chosen_shorter": words[:, 0] < words[:, 1],
    }
    return {
        name: {"accuracy": float(right[rows].mean()), "pairs": int(rows.sum())}
        for name, rows in groups.items()
        if rows.any()
    }


def _over_prompts(values: Floats, groups: Sequence[str], seed: int, samples: int = 2000) -> Interval:
    """Mean over pairs, with an interval from drawing whole prompts: pairs of one prompt are not independent."""
    _, index = np.unique(np.array(groups), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(samples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
