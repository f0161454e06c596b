"""kill -9 in every optimiser step of a run of twelve: gone on with, it ends in the same bytes, whatever is trained.

So do the metrics: of each step the same numbers, once.

The kill comes when gradients are there and weights are about to move. Checkpoints are two or three steps apart, so some
steps are done twice and some kills fall between the two inner steps on one batch of rollouts.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf import trainer
from tasks.config.algorithms.direct import Dpo
from tasks.config.dpo import DirectAlignment
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel
from tasks.config.sft import Sft
from tasks.config.training import FULL, Training
from tasks.dpo import dpo
from tasks.journal import Log, new_folder
from tasks.reward_model import reward_model
from tasks.sft import sft
from tests.faults.child import faulty
from tests.tasks import small_rl, test_dpo, test_reward_model, test_sft, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults(
        1,
        injected="kill -9 in each step of twelve: SFT, adapter, reward models, DPO, GRPO, PPO with adaptive KL",
        happens="resumes at the last save, ends in the same bytes",
    ),
]
STEPS = 12
OWN = ("second", "resumed_from")
"""Parts of names of metrics that an attempt has of its own: what a clock says, and where it began."""
LORA = Training(method="lora", rank=2, alpha=4.0)
Work = Callable[[Path], object]
"""Runs a stage to its end, from scratch or from what a kill left in this folder; writes `out` in it."""


def _sft(folder: Path, training: Training) -> Work:
    inputs = test_sft.inputs.__wrapped__(folder)  # type: ignore[attr-defined]
    config = Sft(epochs=6, batch_size=4, lr=0.02, max_tokens=12, num_samples=4, checkpoint_every=3)
    return lambda to: sft(
        config, generation=Generation(max_new_tokens=8), training=training, seed=0, out=to / "out", scratch=to,
        log=journal(to), **inputs,
    )  # fmt: skip


def _reward_model(folder: Path) -> Work:
    inputs = test_reward_model.inputs.__wrapped__(folder)  # type: ignore[attr-defined]
    settings = test_reward_model.QUICK | test_reward_model.EASY | {"checkpoint_every": 2}
    return lambda to: reward_model(
        RewardModel.model_validate(settings), generation=test_reward_model.GENERATION, seed=0, out=to / "out",
        scratch=to, log=journal(to), **inputs,
    )  # fmt: skip


def _dpo(folder: Path) -> Work:
    inputs = test_dpo.inputs.__wrapped__(folder)  # type: ignore[attr-defined]
    config = DirectAlignment.model_validate(test_dpo.QUICK)
    return lambda to: dpo(config, algorithm=Dpo(lr=0.01), seed=0, out=to / "out", scratch=to, log=journal(to), **inputs)


def _rl(folder: Path, name: str, **settings: Any) -> Work:
    inputs = small_rl.save_inputs(folder)
    block = small_rl.BLOCKS[name].model_copy(update={"inner_steps": 2})
    asked: dict[str, Any] = {"num_updates": 6, "val_every": 3, "checkpoint_every": 2} | settings

    def work(to: Path) -> None:
        (to / "out").rmdir()
        small_rl.run(inputs, to, name, block, log=journal(to), **asked)  # type: ignore[arg-type]

    return work


TRAINERS: dict[str, Callable[[Path], Work]] = {
    "sft": lambda folder: _sft(folder, FULL),
    "lora": lambda folder: _sft(folder, LORA),
    "reward_model": _reward_model,
    "dpo": _dpo,
    "grpo": lambda folder: _rl(folder, "grpo"),
    "ppo": lambda folder: _rl(folder, "ppo", kl_target=0.5),
}


def fresh(folder: Path) -> Path:
    """With an empty `out`, as a stage finds it; what else a kill left stays."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    return folder


def journal(folder: Path) -> Log:
    """Of one attempt."""
    return Log(new_folder(folder, "run", "attempt"))


def told(folder: Path) -> dict[tuple[str, int], str]:
    """Every metric of every step over all attempts, but for what a clock says.

    Fails where an attempt tells one twice, or another attempt tells another number.
    """
    known: dict[tuple[str, int], str] = {}
    for attempt in sorted(folder.glob(".preflow/journal/run/attempt-*")):
        events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
        metrics = [event for event in events if event["event"] == "metrics"]
        said = [((name, event["step"]), repr(value)) for event in metrics for name, value in event["metrics"].items()]
        points = {key: value for key, value in said if not any(part in key[0] for part in OWN)}
        assert len(dict(said)) == len(said), "a step is told of twice"
        assert {key: known.get(key, value) for key, value in points.items()} == points
        known |= points
    return known


def updates_until(work: Work, folder: Path, kill_at: int | None) -> int:
    """Do the work in a process of its own, killed when it is about to make its update `kill_at`; how many it made.

    Fails unless the process ended as it should.
    """
    made = folder / "updates"
    made.write_text("0")
    child = os.fork()
    if child == 0:
        _counting(made)
        faulty(f"step.update:{kill_at}:kill" if kill_at else "")
        work(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert ended == (0 if kill_at is None else -signal.SIGKILL)
    return int(made.read_text())


def _counting(made: Path) -> None:
    update, count = trainer.update, 0

    def counted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        update(*arguments)
        made.write_text(str(count))

    trainer.update = counted  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TRAINERS)
def test_killed_in_any_step_it_ends_in_the_same_bytes(name: str, tmp_path: Path) -> None:
    work = TRAINERS[name](tmp_path)
    steps = updates_until(work, fresh(tmp_path / "unbroken"), None)
    assert steps == (2 * STEPS if name == "reward_model" else STEPS)  # of which there are two
    expected, metrics = tiny.contents(tmp_path / "unbroken/out"), told(tmp_path / "unbroken")
    again = 0
    for step in range(1, steps + 1):
        folder = fresh(tmp_path / f"killed-{step}")
        done = updates_until(work, folder, step)
        again += done + updates_until(work, fresh(folder), None) - steps
        assert tiny.contents(folder / "out") == expected, f"killed in step {step}"
        assert told(folder) == metrics, f"killed in step {step}"
    assert again > 0, "no step was ever done twice: the kills never fell between two checkpoints"
    assert again < steps * 3, "runs began anew: nothing was resumed"
