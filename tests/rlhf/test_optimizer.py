"""Moments in 8 bits, weights in 16, and that both go on after a kill as if there had been none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.chat import Chat
from rlhf.checkpoints import Checkpoints
from rlhf.models import save_policy, token_logprobs, trainable
from rlhf.optimizer import OptimizerSettings, adamw, float32_copies, step
from rlhf.trainer import StepBatch, fit
from tasks.config.training import Training
from tests.rlhf.conftest import WORDS, tiny_llama
from tests.rlhf.test_adapters import batch_of

LAYER = (64, 128)  # 8192 weights: bitsandbytes keeps moments of fewer than 4096 in 32 bits


def test_moments_take_8_bits() -> None:
    layer = nn.Linear(*LAYER)
    optimizer = adamw({"policy": layer}, OptimizerSettings(lr=1.0, kind="adamw_8bit"))
    layer(torch.ones(1, LAYER[0])).sum().backward()
    optimizer.step()
    kept = optimizer.state[layer.weight]
    assert {kept[name].dtype for name in ("state1", "state2")} == {torch.uint8}
    assert kept["state1"].numel() == layer.weight.numel()
    assert optimizer.state[layer.bias]["state1"].dtype == torch.float32


def test_8_bits_take_nearly_the_same_way() -> None:
    """Least squares on random data: both come down to a hundredth of where they began, near each other."""
    numbers = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn(256, LAYER[0], generator=numbers), torch.randn(LAYER, generator=numbers)
    ends = []
    for kind in ("adamw", "adamw_8bit"):
        layer = nn.Linear(*LAYER, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = adamw({"policy": layer}, OptimizerSettings(lr=1.0, kind=kind))  # type: ignore[arg-type]
        for number in range(120):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - number / 120)
            optimizer.zero_grad()
            loss = (layer(inputs) - inputs @ truth).square().mean()
            loss.backward()
            optimizer.step()
        ends.append(loss.item())
    assert max(ends) < 0.01 * (inputs @ truth).square().mean()
    assert ends[1] == pytest.approx(ends[0], rel=0.3, abs=1e-3)


def test_muon_has_no_8_bits() -> None:
    with pytest.raises(ValueError, match="Muon has no 8 bits"):
        adamw({"policy": nn.Linear(2, 2)}, OptimizerSettings(lr=1.0, matrix_lr=1.0, kind="adamw_8bit"))


def test_small_steps_are_not_lost_in_half_precision() -> None:
    """From 1 on bfloat16 counts in steps of 1/128: twenty updates of 1/1000 move the weight by 20/1000, or never."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    copies = float32_copies({"policy": layer})
    optimizer = adamw({"policy": layer}, OptimizerSettings(lr=1.0, eps=1e-8), copies)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for _ in range(20):
        layer.weight.grad = torch.full_like(layer.weight, -1.0)
        step(optimizer, copies)
    assert copies[layer.weight].item() == pytest.approx(1.02, abs=1e-4)
    assert layer.weight.item() == torch.tensor(1.02).bfloat16().item()
    assert float32_copies({"policy": nn.Linear(1, 1)}) == {}


def train(folder: Path, training: Training, scratch: Path, kill_at: int | None = None) -> dict[str, Tensor]:
    policy = trainable(folder, training, 0, "sft")
    batch = batch_of(policy.chat)

    def batch_at(number: int) -> StepBatch[Any]:
        if number == kill_at:
            raise KeyboardInterrupt
        return StepBatch([batch], denominator=float(batch.loss_mask.sum()))

    fit(
        {"policy": policy.model},
        steps=6,
        batch_at=batch_at,
        loss=lambda part: (-token_logprobs(policy.model, part).sum(), {}),
        optimizer=OptimizerSettings(lr=0.01, kind=training.optimizer),
        seed=0,
        name="sft",
        checkpoints=Checkpoints(scratch, every=2),
    )
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full", "dtype": "bfloat16"},
        {"method": "full", "dtype": "bfloat16", "optimizer": "adamw_8bit"},
        {"method": "lora", "rank": 128, "dropout": 0.5, "optimizer": "adamw_8bit"},
        {"method": "qlora", "rank": 4, "dtype": "bfloat16", "gradient_checkpointing": True},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_killed_run_ends_in_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    save_policy(tiny_llama(Chat.from_words(WORDS)), tmp_path / "base")
    training = Training.model_validate(settings)
    unbroken = train(tmp_path / "base", training, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "base", training, tmp_path / "killed", kill_at=5)
    resumed = train(tmp_path / "base", training, tmp_path / "killed")
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
