"""Stage `folds`: is the reward model better than counting words? One model a fold, each judged on what it never saw.

In: the base policy, which has seen no preference, and all validated pairs, whatever their split. Out: `metrics.json`
with every fold, the training budget, the accuracy of the models and of the length rule on the same pairs, their paired
difference with a 95% interval over groups, the trust report of all held-out scores, and how much of it is length.
Pairs are dealt by group (the first message of the user), so no question is on both sides; one reward model a fold is
trained with the settings of section `reward_model` (one, whatever its `ensemble`). The length rule prefers the longer
answer or the shorter, whichever was right more often on the pairs that the fold's model learnt from.
The interval covers the pairs, not the luck of training. Start from `base`: SFT has seen chosen answers of these pairs.

    python -m tasks.folds --help
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.comparisons import by_prompt
from rlhf.errors import PreflowError
from rlhf.folds import deal, length_direction, length_right, length_share
from rlhf.models import Policy, RewardModel, load_policy, trainable
from rlhf.pairs import Pair
from rlhf.records import Row, read_rows, write_json
from rlhf.reward_report import report, score_pairs, word_counts
from rlhf.seeding import derive
from rlhf.statistics import Floats, clustered_bootstrap
from tasks.config.folds import Folds as Config
from tasks.config.reward_model import RewardModel as Recipe
from tasks.config.training import FULL, Training
from tasks.folds_report import lines
from tasks.journal import Log
from tasks.pairs import fitting_pairs
from tasks.prompts import check_room
from tasks.reward_figures import show
from tasks.reward_fits import fit_member
from tasks.stage import main

SPLITS = ("train", "val", "eval")


def folds(
    config: Config,
    *,
    reward_model: Recipe,
    training: Training = FULL,
    seed: int,
    policy: Path,
    preferences: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Train and judge a model a fold; the first lines of the module name the files."""
    given = [row for split in SPLITS for row in read_rows(preferences / f"{split}.jsonl")]
    start = load_policy(policy)
    rows, pairs, dropped = _usable(given, start)
    groups = [str(row["group"]) for row in rows]
    _check(config, reward_model, start, rows, groups)
    fold = deal(groups, config.count, seed)
    lengths = word_counts(rows)
    scores, rule = np.zeros((len(rows), 2)), np.zeros(len(rows))
    tokens = np.array([_tokens(pair) for pair in pairs])

    def trained(name: str, learnt: Sequence[Row]) -> tuple[RewardModel, int]:
        begun = trainable(policy, training, seed, name, start)
        model, prompts = RewardModel(begun, derive(seed, name), reward_model.reads), by_prompt(begun.chat, learnt)
        return model, fit_member(
            reward_model, model, prompts, seed=seed, name=name, scratch=scratch, log=log, training=training
        ).steps

    parts = []
    for number in range(config.count):
        held = fold == number
        model, steps = trained(f"fold-{number + 1}", _of(rows, ~held))
        found = score_pairs(model, _of(rows, held), 0.0, reward_model.max_batch_tokens)
        scores[held] = found - found.mean()  # each model has a zero of its own; margins stay as they are
        direction = length_direction(lengths[~held])
        rule[held] = length_right(lengths[held], direction)
        part = {
            "fold": number + 1,
            "train_pairs": int((~held).sum()),
            "held_out_pairs": int(held.sum()),
            "steps": steps,
            "tokens": int(tokens[~held].sum()) * reward_model.epochs,
            "length_rule_prefers": "longer" if direction > 0 else "shorter",
        }
        both = {"accuracy": float(_right(scores[held]).mean()), "length_rule": float(rule[held].mean())}
        log({f"folds/{name}": value for name, value in both.items()}, number + 1)
        parts.append(part | both)
    summary = _summary(rows, groups, scores, lengths, rule, seed)
    metrics = summary | {"folds": parts, "budget": _budget(reward_model, model, parts), "dropped": dropped}
    log.table("folds", parts)
    show(log, "folds", scores, rows, metrics["trust"])
    print("\n".join(lines(metrics)), file=sys.stderr, flush=True)
    write_json(out / "metrics.json", metrics)


def _usable(rows: Sequence[Row], policy: Policy) -> tuple[list[Row], list[Pair], dict[str, float]]:
    """Pairs that the model has room for and whose sides differ as tokens, and how many were dropped and why."""
    fit = fitting_pairs(rows, policy)
    kept = [(row, pair) for row, pair in fit.kept if pair.chosen_ids != pair.rejected_ids]
    dropped = fit.dropped | {"dropped_equal": float(len(fit.kept) - len(kept))}
    return [row for row, _ in kept], [pair for _, pair in kept], dropped


def _check(config: Config, recipe: Recipe, policy: Policy, rows: Sequence[Row], groups: Sequence[str]) -> None:
    """Raises PreflowError where there are fewer groups than folds, or one prompt does not go into a pass."""
    if len(set(groups)) < config.count:
        raise PreflowError(
            f"there are {len(set(groups))} groups of pairs, folds.count={config.count} needs at least as many: "
            "lower it, or give more pairs"
        )
    together = max(len(one.completions) * one.longest for one in by_prompt(policy.chat, rows))
    check_room("a prompt with all its completions", together, recipe.max_batch_tokens, "reward_model")


def _summary(
    rows: Sequence[Row], groups: Sequence[str], scores: Floats, lengths: Floats, rule: Floats, seed: int
) -> dict[str, Any]:
    """Both accuracies and their difference over all held-out pairs, the trust report, and what of it is length."""
    right = _right(scores)
    return {
        "pairs": len(rows),
        "groups": len(set(groups)),
        "accuracy": clustered_bootstrap(right, groups, seed).as_dict(),
        "length_rule": clustered_bootstrap(rule, groups, seed).as_dict(),
        "difference": clustered_bootstrap(right - rule, groups, seed).as_dict(),
        "length": length_share(scores[:, 0] - scores[:, 1], lengths, rule),
        "trust": report(scores, rows, seed),
    }


def _budget(recipe: Recipe, model: RewardModel, parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What training took, without padding; all folds together."""
    return {
        "models": len(parts),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "epochs": recipe.epochs,
        "steps": sum(part["steps"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
    }


def _tokens(pair: Pair) -> int:
    return 2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def _right(scores: Floats) -> Floats:
    right: Floats = 0.5 + 0.5 * np.sign(scores[:, 0] - scores[:, 1])
    return right


def _of(rows: Sequence[Row], where: NDArray[np.bool_]) -> list[Row]:
    return [row for row, inside in zip(rows, where, strict=True) if inside]


if __name__ == "__main__":
    main(folds)
