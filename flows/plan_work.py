"""How much a stage has to do, and what it writes: tokens, bytes on disk."""

from collections.abc import Mapping
from typing import Any

from flows.plan_data import Facts
from flows.plan_flops import rows_of
from rlhf.footprint import How, Sizes, trained
from tasks.graph import Stage

KEPT = 2
"""Checkpoints of a stage that stay while it runs (`rlhf.checkpoints`), and beside them the one being written."""


def tokens_of(stage: Stage, module: str, section: Mapping[str, Any], values: Mapping[str, Any], data: Facts) -> float:
    """Tokens that a stage trains on, or samples where it trains nothing; 0 where the number of rows is not known."""
    rows = rows_of(stage, module, section, values, data)
    both, new = data.lengths.prompt + data.lengths.answer, values["generation"]["max_new_tokens"]
    if module == "rl":
        algorithm = values["algorithms"][section["algorithm"]]
        return float(rows * algorithm["group_size"] * algorithm["inner_steps"] * (data.lengths.prompt + new))
    if module in ("sample", "annotate"):
        return float(rows * section["group_size"] * new)
    if module == "evaluate":
        return float(rows * section["samples_per_prompt"] * new)
    if module == "base" and section["source"] == "checkpoint":
        return 0.0
    twice = 2 if module in ("reward_model", "dpo", "rejection_sampling") else 1  # two sides, or two policies
    return float(twice * rows * both * section["epochs"])


def disk_of(module: str, sizes: Sizes, how: How) -> float:
    """Bytes of a stage's checkpoints while it runs, and of the models that it leaves."""
    if module in ("sample", "annotate", "evaluate"):
        return 0.0
    if module == "base":
        return 4.0 * sizes.parameters
    learns = trained(sizes, how)
    checkpoint = (4.0 + (8 if how.optimizer == "adamw" else 2)) * learns
    model = how.value * sizes.parameters if how.method == "full" else 4.0 * learns
    models = 2 if module in ("reward_model", "rl") else 1  # two reward models; the best policy so far
    return (KEPT + 1) * checkpoint + models * model
