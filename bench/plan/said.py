"""What the planner says of a cell, from its settings and the lengths of its rows."""

from collections.abc import Sequence
from typing import Any

from bench.plan.cells import Way, cell
from flows.plan.passes import Lengths
from flows.plan.stages import Need, need
from rlhf.sizes import How, Sizes
from tasks.config.params import Params
from tasks.graph import Stage

MODULES = {"sft": "sft", "reward": "reward_model", "dpo": "dpo", "grpo": "rl", "ppo": "rl"}


def said(way: Way, stage: str, lengths: Sequence[Sequence[int]]) -> Need:
    """Of rows with these (prompt, chosen, rejected) tokens.

    The cell of the reward model trains one, so what the stage has in memory beside it is not counted.
    """
    shape, module = way.shape, MODULES[stage]
    command = f"python -m tasks.{module} --params {module} {'--reward-model x ' if stage == 'ppo' else ''}"
    sizes = Sizes(
        shape.vocab, shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.hidden // shape.heads,
        shape.intermediate, shape.tied,
    )  # fmt: skip
    how = How(method="lora" if way.lora else "full")
    found = need(Stage(stage, command, (), (), ()), _settings(way, stage), sizes, how, _lengths(stage, lengths))
    if stage == "reward":
        found.terms["other models"] = 0.0
    return found


def _lengths(stage: str, lengths: Sequence[Sequence[int]]) -> Lengths:
    return Lengths(tuple(tuple(map(float, row[:2] if stage == "sft" else row)) for row in lengths))


def _settings(way: Way, stage: str) -> dict[str, Any]:
    """Those of `bench.speed.ours`."""
    one, shape = cell(way, stage), way.shape
    values = Params().model_dump(by_alias=True)
    values["generation"]["max_new_tokens"] = one.new_tokens or 1
    values["training"]["method"] = "lora" if way.lora else "full"
    values["sft"] |= {"batch_size": one.rows, "max_tokens": shape.positions, "num_samples": 1}
    values["reward_model"] |= {"batch_size": one.rows, "lm_coef": 0.0, "reads": "last_token"}
    values["dpo"]["batch_size"] = one.rows
    if one.samples:
        values["rl"]["algorithm"] = one.stage
        values["algorithms"][one.stage] |= {"prompts_per_update": one.rows, "group_size": one.group}
    return values
