"""Whether a reward model can be trusted: its scores against held-out choices, confidence, length and gold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from rlhf.batching import Batch, collate
from rlhf.pairs import encode_pairs
from rlhf.scoring import Ids, Scorer, by_batch, rewards_of
from rlhf.spending import spent
from rlhf.statistics import Floats, clustered_bootstrap, correlation, expected_calibration_error, reliability_bins

Rows = Sequence[Mapping[str, Any]]

LENGTH_BINS = (-np.inf, -5.5, -1.5, 1.5, 5.5, np.inf)
"""Edges of the bins of (words of chosen − words of rejected)."""
LENGTH_NAMES = ("6+ shorter", "2-5 shorter", "about as long", "2-5 longer", "6+ longer")
NUM_ALONE = 64
"""Texts scored once more, each alone and each with padding: it is the same arithmetic for all of them."""
EXTRA_PADDING = 17
"""Tokens; no round number, as kernels work in tiles."""
MOST_NAMES = 20
"""Annotators, sources or origins told apart: those with most pairs."""


def score_pairs(reward_model: Scorer, rows: Rows, unfinished_reward: float, max_tokens: int) -> Floats:
    """Scores of chosen and rejected, [pairs, 2]; a side that was cut off has the fixed `unfinished_reward`."""
    texts, stopped = [], []
    for pair, row in zip(encode_pairs(reward_model.chat, rows), rows, strict=True):
        ended = row.get("stopped") or {"chosen": True, "rejected": True}
        texts += [(pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids)]
        stopped += [bool(ended["chosen"]), bool(ended["rejected"])]
    rewards = rewards_of(reward_model, texts, stopped, unfinished_reward, max_tokens)
    return np.array(rewards.tolist()).reshape(-1, 2)


def report(scores: Floats, rows: Rows, seed: int, scale: float = 1.0) -> dict[str, Any]:
    """Accuracy (ties half) with a 95% interval over prompts, its ceiling, calibration against σ(scale · margin), by
    |margin|, length, origin, source, annotator and confidence, correlation of score and length, and agreement with gold
    where it is known.

    The ceiling is the mean probability of the likelier choice of the annotators, where that is known: the accuracy that
    no model of these labels can exceed on average. `scale` undoes the normalisation of scores: Bradley-Terry claims are
    made in the units the model was trained in.
    """
    margins = scores[:, 0] - scores[:, 1]
    right = 0.5 + 0.5 * np.sign(margins)
    accuracy = clustered_bootstrap(right, [row["group"] for row in rows], seed)
    # A model's claim is about the side it prefers: P(preferred is chosen) = σ(|margin|) ≥ ½.
    claims = 1 / (1 + np.exp(-scale * np.abs(margins)))
    words = word_counts(rows)
    found: dict[str, Any] = {
        "pairs": len(rows),
        "accuracy": accuracy.as_dict(),
        "calibration_error": expected_calibration_error(claims, right),
        "margin_mean": float(margins.mean()),
        "margin_std": float(margins.std()),
        "reference_mean": float(scores[:, 0].mean()),
        "reference_std": float(scores[:, 0].std()),
        "length_correlation": correlation(scores.ravel(), words.ravel()),
        "reliability": [
            {"claimed": part.confidence, "accuracy": part.frequency, "pairs": part.count}
            for part in reliability_bins(claims, right)
            if part.count
        ],
        "by_length": _by_length(right, words),
        "by_length_difference": _by_length_difference(right, words),
    }
    for name in ("origin", "source", "annotator"):
        if any(name in row for row in rows):
            found[f"by_{name}"] = _by_name(right, [str(row.get(name, "unknown")) for row in rows])
    if all("confidence" in row for row in rows):
        confidences = np.array([row["confidence"] for row in rows])
        found["ceiling"] = float(confidences.mean())
        found["by_confidence"] = _by_confidence(right, confidences)
    return found | _against_gold(scores, rows)


def word_counts(rows: Rows) -> Floats:
    """Words of chosen and rejected, [pairs, 2]."""
    return np.array([[len(row[side].split()) for side in ("chosen", "rejected")] for row in rows], dtype=float)


@spent("score")
@torch.no_grad()
def padding_gap(reward_model: Scorer, texts: Sequence[tuple[Ids, Ids]], max_tokens: int) -> float:
    """Largest |difference| of a score between a text in its batch, the text alone, and the text with more padding.

    A model that is read at the wrong token, or sees padding, gives a reward that depends on the company a text is in.
    """
    pad_id = reward_model.chat.pad_id
    texts = list(texts)[:NUM_ALONE]
    together = by_batch(reward_model, texts, pad_id, max_tokens)

    def alone(padding: int) -> torch.Tensor:
        singles = [
            collate([([*prompt, *ids], [False] * len(prompt) + [True] * len(ids))], pad_id) for prompt, ids in texts
        ]
        return torch.cat([reward_model(_padded(one, padding, pad_id)) for one in singles])

    gaps = [(alone(padding) - together).abs().max().item() for padding in (0, EXTRA_PADDING)]
    return float(max(gaps))


def _padded(batch: Batch, count: int, pad_id: int) -> Batch:
    more = (0, count)
    return Batch(
        pad(batch.input_ids, more, value=pad_id),
        pad(batch.attention_mask, more, value=False),
        pad(batch.loss_mask, more, value=False),
    )


def _against_gold(scores: Floats, rows: Rows) -> dict[str, Any]:
    if not all("gold" in row for row in rows):
        return {}
    gold = np.array([[row["gold"]["chosen"], row["gold"]["rejected"]] for row in rows])
    differ = gold[:, 0] != gold[:, 1]
    agree = 0.5 + 0.5 * np.sign(scores[differ, 0] - scores[differ, 1]) * np.sign(gold[differ, 0] - gold[differ, 1])
    return {
        "gold_correlation": correlation(scores.ravel(), gold.ravel()),
        "gold_agreement": float(agree.mean()) if differ.any() else None,
    }


def _by_length(right: Floats, words: Floats) -> dict[str, dict[str, float]]:
    groups = {
        "chosen_longer": words[:, 0] > words[:, 1],
        "same_length": words[:, 0] == words[:, 1],
        "chosen_shorter": words[:, 0] < words[:, 1],
    }
    return {name: _part(right, rows) for name, rows in groups.items() if rows.any()}


def _by_length_difference(right: Floats, words: Floats) -> list[dict[str, Any]]:
    number = np.digitize(words[:, 0] - words[:, 1], LENGTH_BINS) - 1
    return [
        {"chosen_is": name} | _part(right, number == index)
        for index, name in enumerate(LENGTH_NAMES)
        if (number == index).any()
    ]


def _by_name(right: Floats, names: Sequence[str]) -> dict[str, dict[str, float]]:
    held = np.array(names)
    told_apart = sorted(name for name, _ in Counter(sorted(names)).most_common(MOST_NAMES))
    return {name: _part(right, held == name) for name in told_apart}


def _by_confidence(right: Floats, confidences: Floats) -> list[dict[str, float]]:
    """Bins of a tenth: how sure the annotators were, and how often the model chose as they did."""
    number = np.minimum((confidences * 10).astype(int), 9)
    return [
        {"confidence": float(confidences[number == index].mean())} | _part(right, number == index)
        for index in sorted(set(number.tolist()))
    ]


def _part(right: Floats, rows: Any) -> dict[str, float]:
    return {"accuracy": float(right[rows].mean()), "pairs": int(rows.sum())}
