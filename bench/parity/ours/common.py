"""What our trainers are given, and how a step of theirs is looked at."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf import trainer
from rlhf.models import Policy, RewardModel, ValueModel, load_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.trainer import StepBatch, fit

Result = tuple[float, dict[str, Tensor]]
"""The loss, and gradients by parameter name."""
MAX_TOKENS = 60
"""So little that every step takes several micro-batches."""
# The rate moves nothing that is compared (gradients are recorded before the step), but at 0 a reward model is frozen.
STEP: dict[str, Any] = {"optimizer": OptimizerSettings(lr=1e-6), "seed": 0, "name": "step"}


class Inputs:
    """What inputs.py wrote, models in float64."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = json.loads((folder / "batches.json").read_text("utf-8"))
        self.heads = load_file(folder / "heads.safetensors")

    def policy(self, name: str = "policy") -> Policy:
        policy = load_policy(self.folder / name)
        return Policy(policy.model.double(), policy.chat)

    def scorer(self) -> RewardModel:
        """The reward model, its head as given."""
        model = RewardModel(self.policy("reward"), seed=0).double()
        model.head.weight.data.copy_(self.heads["reward"][None])
        return model

    def critic(self, name: str) -> ValueModel:
        model = ValueModel(self.policy(name).model).double()
        model.head.weight.data.copy_(self.heads[name][None])
        return model


class Recorder:
    """What one call of `rlhf.trainer.fit` computes: the loss that it logs, and gradients where it would clip them."""

    def __init__(self) -> None:
        self.loss = float("nan")
        self.gradients: dict[int, dict[str, Tensor]] = {}

    def clip(self, module: nn.Module, limit: float) -> float:
        named = dict(module.named_parameters()).items()
        self.gradients[id(module)] = {name: weight.grad.clone() for name, weight in named if weight.grad is not None}
        return 0.0

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.loss = values["step/loss"]


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    recorder = Recorder()
    with patch.object(trainer, "clip", recorder.clip):
        yield recorder


def one_step(modules: dict[str, nn.Module], batch: StepBatch[Any], loss: Callable[..., Any]) -> Result:
    """`fit` for a step: its loss and the gradients of all modules, the policy's names as they are."""
    with recorded() as step:
        fit(modules, steps=1, batch_at=lambda _: batch, loss=loss, log=step.log, **STEP)
    if len(modules) == 1:
        return step.loss, step.gradients[id(modules["policy"])]
    return step.loss, {
        f"{name}.{key}": value for name, module in modules.items() for key, value in step.gradients[id(module)].items()
    }
