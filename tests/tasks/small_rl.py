"""Stage `rl` on models of a few thousand weights, for the tests of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from rlhf.rewards import Asked
from rlhf.sampler import Completion
from tasks.config.algorithms.on_policy import Ppo
from tasks.config.generation import Generation
from tasks.config.rl import Rl
from tasks.config.training import FULL, Training
from tasks.journal import Log
from tasks.rl import rl
from tests.tasks import tiny

QUICK: dict[str, Any] = {
    "num_updates": 12, "warmup_steps": 1, "val_every": 4, "checkpoint_every": 3, "kl_coef": 0.05,
    "max_batch_tokens": 256, "stop_early": False,
}  # fmt: skip
GENERATION = Generation(max_new_tokens=6)
SMALL: dict[str, Any] = {"prompts_per_update": 8, "group_size": 4, "lr": 0.01}
BLOCKS: dict[str, Any] = {
    block.name: block(**(SMALL | {"value_lr": 0.02} if block is Ppo else SMALL))
    for block in get_args(get_type_hints(rl)["algorithm"])
}
NO_MODEL: dict[str, Any] = {"reward_model": 0.0, "missing_stop": 1.0}
"""Rewards that need no model: −1 for a completion that was cut off."""


class Recorder(Log):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(None)
        self.steps: dict[int, dict[str, float]] = {}
        self.counted: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, **figures: float) -> None:
        self.counted.append((done, total))

    def __call__(self, metrics: Any, step: int) -> None:
        self.steps.setdefault(step, {}).update(metrics)


def save_inputs(folder: Path) -> dict[str, Path]:
    """Models and prompts, by the names of the stage's arguments."""
    tiny.save_models(folder)
    tiny.save_prompts(folder / "prompts", num_val=16)
    return {
        "policy": folder / "policy",
        "reference": folder / "policy",
        "reward_model": folder / "policy_rm",
        "held_out": folder / "held_out_rm",
        "reward_metrics": folder / "reward_metrics.json",
        "prompts": folder / "prompts",
    }


def stopped(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
    return torch.tensor([float(one.stop_reason == "stop") for one in completions])


def run(
    inputs: Mapping[str, Path],
    folder: Path,
    name: str = "rloo",
    algorithm: Any = None,
    training: Training = FULL,
    log: Recorder | None = None,
    **settings: Any,
) -> Recorder:
    log = log or Recorder()
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    config = Rl.model_validate({**QUICK, "algorithm": name, **settings})
    rl(
        config, generation=GENERATION, algorithm=algorithm or BLOCKS[name], training=training, seed=0,
        out=folder / "out", scratch=folder / "scratch", log=log, **inputs,
    )  # fmt: skip
    return log


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return found
