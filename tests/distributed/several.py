"""A stage's own function on tiny models, by several processes or by one, with what each step was kept.

As a program (under torchrun) it runs those that are named: `several.py FOLDER NAME …`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf import distributed, trainer
from rlhf.sharding import divided
from tasks.config.algorithms.direct import Dpo, Kto
from tasks.config.dpo import DirectAlignment
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel
from tasks.config.sft import Sft
from tasks.config.training import FULL, Training
from tasks.dpo import dpo
from tasks.reward_model import reward_model
from tasks.sft import sft
from tests.faults import child
from tests.tasks import small_rl, test_dpo, test_reward_model, test_sft

LORA = Training(method="lora", rank=2, alpha=4.0)
SHARDED = Training(shard=True)
SHARDED_LORA = Training(method="lora", rank=2, alpha=4.0, shard=True)
Stage = Callable[[Path, Path, Any], object]
"""(where the inputs are, where to work, log) → writes `out` there."""


def _sft(training: Training) -> tuple[Callable[[Path], Any], Stage]:
    def run(given: Path, to: Path, log: Any) -> None:
        config = Sft(
            epochs=6, batch_size=4, lr=0.02, max_tokens=12, max_batch_tokens=12, num_samples=4, checkpoint_every=3
        )
        sft(
            config, generation=Generation(max_new_tokens=8), training=training, seed=0, out=to / "out", scratch=to,
            log=log, base=given / "base", demonstrations=given / "demonstrations",
        )  # fmt: skip

    return test_sft.inputs.__wrapped__, run  # type: ignore[attr-defined]


def _reward_model(training: Training) -> tuple[Callable[[Path], Any], Stage]:
    def run(given: Path, to: Path, log: Any) -> None:
        settings = test_reward_model.QUICK | test_reward_model.EASY
        # Without centring the gradient of the head's bias is rounding errors, and AdamW makes them as large as any.
        settings |= {"epochs": 2, "max_batch_tokens": 24, "lm_coef": 0.5, "centring": 0.1}
        reward_model(
            RewardModel.model_validate(settings), training=training, generation=test_reward_model.GENERATION, seed=0,
            out=to / "out", scratch=to, log=log, policy=given / "policy", prompts=given / "prompts",
            pairs=given / "pairs",
        )  # fmt: skip

    return test_reward_model.inputs.__wrapped__, run  # type: ignore[attr-defined]


def _dpo(algorithm: Any, training: Training = FULL) -> tuple[Callable[[Path], Any], Stage]:
    def run(given: Path, to: Path, log: Any) -> None:
        config = DirectAlignment.model_validate(test_dpo.QUICK | {"max_batch_tokens": 20})
        dpo(
            config, algorithm=algorithm, training=training, seed=0, out=to / "out", scratch=to, log=log,
            policy=given / "policy", pairs=given / "pairs",
        )  # fmt: skip

    return test_dpo.inputs.__wrapped__, run  # type: ignore[attr-defined]


def _rl(name: str, training: Training = FULL, **settings: Any) -> tuple[Callable[[Path], Any], Stage]:
    def run(given: Path, to: Path, log: Any) -> None:
        block = small_rl.BLOCKS[name].model_copy(update={"inner_steps": 2})
        asked = {"num_updates": 3, "val_every": 2, "checkpoint_every": 1, "max_batch_tokens": 96} | settings
        names = ("prompts", "held_out_rm", "policy_rm", "policy", "policy", "reward_metrics.json")
        roles = ("prompts", "held_out", "reward_model", "policy", "reference", "reward_metrics")
        inputs = {role: given / file for role, file in zip(roles, names, strict=True)}
        (to / "out").rmdir()
        small_rl.run(inputs, to, name, block, training, log=log, **asked)

    return small_rl.save_inputs, run


TRAINERS: dict[str, tuple[Callable[[Path], Any], Stage]] = {
    "sft": _sft(FULL),
    "lora": _sft(LORA),
    "qlora": _sft(Training(method="qlora", rank=2, alpha=4.0, optimizer="adamw_8bit")),
    "reward_model": _reward_model(FULL),
    "dpo": _dpo(Dpo(lr=0.01)),
    "kto": _dpo(Kto(lr=0.02)),
    "grpo": _rl("grpo"),
    "grpo, lora": _rl("grpo", LORA),
    "ppo": _rl("ppo", kl_target=0.5),
    "sft, sharded": _sft(SHARDED),
    "sft, sharded, bfloat16": _sft(Training(shard=True, dtype="bfloat16", gradient_checkpointing=True)),
    "reward_model, sharded": _reward_model(SHARDED),
    "dpo, sharded": _dpo(Dpo(lr=0.01), SHARDED),
    "grpo, sharded": _rl("grpo", SHARDED),
    "ppo, sharded": _rl("ppo", SHARDED, kl_target=0.5),
    "lora, sharded": _sft(SHARDED_LORA),
    "lora, sharded, bfloat16": _sft(
        SHARDED_LORA.model_copy(update={"dtype": "bfloat16", "gradient_checkpointing": True})
    ),
    "reward_model, lora, sharded": _reward_model(SHARDED_LORA),
    "dpo, lora, sharded": _dpo(Dpo(lr=0.01), SHARDED_LORA),
    "grpo, lora, sharded": _rl("grpo", SHARDED_LORA),
    "ppo, lora, sharded": _rl("ppo", SHARDED_LORA, kl_target=0.5),
}
"""What makes the inputs, and what runs."""


def prepared(name: str, folder: Path) -> Path:
    """The inputs of a trainer."""
    folder.mkdir(parents=True)
    TRAINERS[name][0](folder)
    return folder


def run(name: str, given: Path, to: Path) -> None:
    """Run a trainer; in `to` are its `out`, the metrics of its steps, and their gradients before clipping."""
    (to / "out").mkdir(parents=True, exist_ok=True)
    log = small_rl.Recorder()
    with _gradients() as gradients:
        TRAINERS[name][1](given, to, log)
    (to / "steps.json").write_text(json.dumps(log.steps))
    save_file({f"{number:04d}": gradient for number, gradient in enumerate(gradients)}, to / "gradients.safetensors")


def run_all(folder: Path, rank: int, names: Iterable[str]) -> None:
    """Run these trainers, each in a folder of its own, where `given` is there already."""
    for name in names:
        run(name, folder / name / "given", folder / name / f"rank-{rank}")


@contextmanager
def _gradients() -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    clip = trainer.clip

    def recorded(module: nn.Module, limit: float) -> float:
        gradients = [one.grad for one in module.parameters() if one.grad is not None]
        whole: list[Any] = [one.full_tensor() if divided(one) else one for one in gradients]
        found.append(torch.cat([one.float().flatten().clone() for one in whole]))
        return clip(module, limit)

    trainer.clip = recorded  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        trainer.clip = clip  # type: ignore[attr-defined]


def begun(work: Callable[[int], object], count: int, folder: Path) -> list[int]:
    """Process ids of `count` forks that do the work as one training; each is given its number, stderr goes there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "group").unlink(missing_ok=True)

    def as_rank(rank: int) -> Callable[[], object]:
        def task() -> object:
            named = {"RANK": rank, "WORLD_SIZE": count, distributed.RENDEZVOUS: f"file://{folder}/group"}
            os.environ.update({name: str(value) for name, value in named.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
            distributed.group.cache_clear()
            return work(rank)

        return task

    return [child.begun(as_rank(rank), folder / f"stderr-{rank}") for rank in range(count)]


def ended(work: Callable[[int], object], count: int, folder: Path) -> list[int]:
    """How those of `begun` ended."""
    return [child.waited(pid) for pid in begun(work, count, folder)]


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), int(os.environ["RANK"]), sys.argv[2:])
