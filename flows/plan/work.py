"""How much a stage has to do, and what it writes: tokens, bytes on disk."""

import math
from collections.abc import Mapping
from typing import Any

from flows.plan.asked import reads_head
from flows.plan.data import Facts
from flows.plan.flops import rows_of
from rlhf.footprint import checkpoint, trained
from rlhf.sizes import How, Sizes
from tasks.graph import Stage

KEPT = 2
"""Checkpoints of a training that stay (`rlhf.checkpoints`); beside them is the one being written."""


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


def disk_of(
    module: str, section: Mapping[str, Any], values: Mapping[str, Any], sizes: Sizes, how: How, one: float
) -> float:
    """Bytes of checkpoints of `one` each, which stay until the run is closed, and of the models that a stage leaves."""
    if module in ("sample", "annotate", "evaluate"):
        return 0.0
    if module == "base":
        return (KEPT + 1) * one + 4.0 * sizes.parameters
    members = values["reward_model"]["ensemble"]
    trainings = {"reward_model": 2 * members, "rejection_sampling": 2}.get(module, 1)  # two halves, or two selections
    model = how.value * sizes.parameters if how.method == "full" else 4.0 * trained(sizes, how)
    models = _policies(section) if module == "rl" else trainings
    return (KEPT * trainings + 1) * one + models * model


def checkpoint_of(module: str, section: Mapping[str, Any], sizes: Sizes, how: How) -> float:
    """Bytes of one checkpoint; 0 where a stage has none."""
    if module in ("sample", "annotate", "evaluate"):
        return 0.0
    if module == "base":
        return checkpoint(sizes, How()) if section["source"] == "scratch" else 0.0
    if module == "reward_model":
        return checkpoint(sizes, how, reads_head(section)) if section["lr"] else 0.0  # else heads alone
    critic = checkpoint(sizes, how, head=False) if module == "rl" and section["algorithm"] == "ppo" else 0.0
    return checkpoint(sizes, how) + critic


def _policies(section: Mapping[str, Any]) -> int:
    """Policies of `rl`: all that a checkpoint may yet name as the best (`tasks.rl_looks`), those of looks, the last."""
    looks = math.ceil(section["num_updates"] / section["val_every"]) + 1
    named = math.ceil(2 * section["checkpoint_every"] / section["val_every"]) + 2
    return min(looks, named) + looks * section["keep_looks"] + (not section["select_best"])
