"""Every stage that trains or samples, on each device there is, takes the steps that it takes on the processor."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import distributed
from rlhf.comparisons import by_prompt
from rlhf.models import RewardModel, trainable
from rlhf.records import read_rows, write_rows
from rlhf.rollouts import read_rollouts
from tasks.config.algorithms.direct import Dpo
from tasks.config.dpo import DirectAlignment
from tasks.config.generation import Generation
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.reward_model import RewardModel as RewardModelConfig
from tasks.config.sample import Sample
from tasks.config.sft import Sft
from tasks.config.training import FULL, Training
from tasks.dpo import dpo
from tasks.rejection_sampling import rejection_sampling
from tasks.reward_fits import fit_member
from tasks.sample import sample
from tasks.sft import sft
from tests.tasks import small_rl, tiny
from tests.tasks.small_rl import GENERATION, Recorder

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LIMIT = 1e-3
"""Nats a token or a pair, and of a gradient's length, between two devices in float32."""
SHORT: dict[str, Any] = {"lr": 0.01, "batch_size": 4}
Watched = dict[str, list[float]]


def demonstrations(folder: Path) -> None:
    tiny.save_demonstrations(folder / "demonstrations")
    rows = list(read_rows(folder / "demonstrations/train.jsonl"))
    write_rows(folder / "demonstrations/val.jsonl", [row | {"id": str(place)} for place, row in enumerate(rows[:4])])


def pairs(folder: Path) -> None:
    for split, words in (("train", tiny.WORDS[:7]), ("val", tiny.WORDS[7:])):
        rows = [
            {"id": word, "group": word, "half": "policy", "messages": [{"role": "user", "content": word}],
             "chosen": "yes please", "rejected": "no no no"}
            for word in words
        ]  # fmt: skip
        write_rows(folder / f"pairs/{split}.jsonl", rows)


def take(folder: Path, log: Recorder, stage: Callable[..., Any], config: Any, **further: Any) -> None:
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    stage(config, seed=0, out=folder / "out", scratch=folder / "scratch", log=log, **further)


def run_sft(folder: Path, log: Recorder, training: Training) -> None:
    demonstrations(folder)
    config = Sft(epochs=2, max_tokens=12, num_samples=2, **SHORT)
    take(
        folder, log, sft, config, training=training, generation=GENERATION, base=folder / "policy",
        demonstrations=folder / "demonstrations",
    )  # fmt: skip


def run_reward_model(folder: Path, log: Recorder, training: Training) -> None:
    pairs(folder)
    (folder / "scratch").mkdir()
    policy = trainable(folder / "policy", training, 0, "policy_rm")
    config = RewardModelConfig(epochs=2, head_lr=0.01, lm_coef=0.1, **SHORT)
    rows = by_prompt(policy.chat, read_rows(folder / "pairs/train.jsonl"))
    model = RewardModel(policy, 0)
    fit_member(config, model, rows, seed=0, name="policy_rm", scratch=folder / "scratch", log=log, training=training)


def run_dpo(folder: Path, log: Recorder, training: Training) -> None:
    pairs(folder)
    config = DirectAlignment(epochs=2, batch_size=4)
    take(
        folder, log, dpo, config, algorithm=Dpo(lr=0.01), training=training, policy=folder / "policy",
        pairs=folder / "pairs",
    )  # fmt: skip


def run_rl(name: str) -> Callable[[Path, Recorder, Training], None]:
    def run(folder: Path, log: Recorder, training: Training) -> None:
        inputs = small_rl.save_inputs(folder)
        small_rl.run(inputs, folder / "run", name, log=log, training=training, num_updates=3, val_every=2)

    return run


def run_sampling(folder: Path, log: Recorder, training: Training) -> None:
    """Stage `rejection_sampling` on what stage `sample` has drawn and scored."""
    tiny.save_prompts(folder / "prompts")
    path = folder / "prompts/train.jsonl"
    write_rows(path, [row | {"group": row["id"]} for row in read_rows(path)])
    (folder / "sampled").mkdir()
    drawing = Generation(max_new_tokens=12, unfinished_reward=-3.0)
    take(
        folder / "sampled", log, sample, Sample(num_prompts=8, group_size=4), generation=drawing,
        policy=folder / "policy", reward_model=folder / "policy_rm", prompts=folder / "prompts",
    )  # fmt: skip
    rollouts = folder / "sampled/out/rollouts"
    drawn = list(read_rollouts(rollouts / "rollouts.jsonl"))
    for place, one in enumerate(drawn):
        log({"sample/reward": one.reward or 0.0, "sample/logprob": sum(one.logprobs)}, 1000 + place)
    config = RejectionSampling(epochs=2, **SHORT)
    take(folder, log, rejection_sampling, config, training=training, policy=folder / "policy", rollouts=rollouts)


STAGES: Mapping[str, Callable[[Path, Recorder, Training], None]] = {
    "sft": run_sft, "reward_model": run_reward_model, "sample and rejection_sampling": run_sampling,
    "rl, grpo": run_rl("grpo"), "rl, ppo": run_rl("ppo"), "dpo": run_dpo,
}  # fmt: skip
FIGURES = ("loss", "grad_norm", "kl", "reward", "logprob", "explained_variance", "val_reward")


def watched(
    stage: str, training: Training, device: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watched, set[str]]:
    """What a stage logs of its steps, by name, and the kinds of device that its linear layers ran on.

    Norms do not count: they are tried on the processor when a model is read, wherever it goes then.
    """
    monkeypatch.setattr(distributed, "own_device", lambda: torch.device(device))
    used: set[str] = set()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, found: used.add(found.device.type) if isinstance(module, torch.nn.Linear) else None
    )
    log = Recorder()
    folder.mkdir()
    tiny.save_models(folder)
    try:
        STAGES[stage](folder, log, training)
    finally:
        hook.remove()
    found: Watched = {}
    for step in sorted(log.steps):
        for name, value in log.steps[step].items():
            if name.rpartition("/")[2] in FIGURES:
                found.setdefault(name, []).append(value)
    return found, used


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [FULL, Training(method="lora")], ids=["full", "lora"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_same_steps(
    stage: str, training: Training, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = watched(stage, training, "cpu", tmp_path / "on_the_processor", monkeypatch)
    found, used = watched(stage, training, device, tmp_path / "there", monkeypatch)
    assert used == {device}
    assert any(name.endswith("/loss") for name in expected) and found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=LIMIT, abs=LIMIT), name
    losses = next(values for name, values in expected.items() if name.endswith("/loss"))
    assert len(set(losses)) > 1  # the weights moved
