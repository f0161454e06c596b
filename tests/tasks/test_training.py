"""Section `training` where stages use it: who has it, one base in memory, and going on after a kill with adapters."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.models import RewardModel, policy, trainable
from tasks.closure import dvc_files
from tasks.config import read_yaml
from tasks.config.training import Training
from tests.tasks import small_rl, tiny

ROOT = Path(__file__).parents[2]
LORA = Training(method="lora", rank=2)
STAGES = {"sft", "reward_model", "rejection_sampling", "rl", "dpo"}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """As those of stage rl, with reward models that are adapters on the policy's base."""
    found = small_rl.save_inputs(tmp_path)
    for seed, name in enumerate(("policy_rm", "held_out_rm")):
        RewardModel(trainable(found["policy"], LORA, seed, name), seed).save(tmp_path / "adapted" / name)
    return found | {"reward_model": tmp_path / "adapted/policy_rm", "held_out": tmp_path / "adapted/held_out_rm"}


@pytest.mark.parametrize("file", dvc_files(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_stage_that_trains_depends_on_how(file: Path) -> None:
    for name, stage in read_yaml(file)["stages"].items():
        module = re.findall(r"python -m tasks\.(\w+)", stage["cmd"])
        assert ("training" in stage.get("params", [])) == (module[0] in STAGES | {"folds"}), name


def test_a_stage_has_the_base_in_memory_once(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy, reference, reward model, critic and witness; the plain models of a full run are five."""
    loaded: list[Any] = []
    load = policy.load_model
    monkeypatch.setattr(policy, "load_model", lambda *given, **how: loaded.append(given) or load(*given, **how))
    small_rl.run(inputs, tmp_path / "run", "ppo", training=LORA, num_updates=2)
    assert len(loaded) == 1
    files = {path.name for path in (tmp_path / "run/out/policy/adapters").iterdir()}
    assert files == {"1-rl"}


def test_a_killed_run_with_adapters_ends_in_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"training": Training(method="lora", rank=2, optimizer="adamw_8bit"), "num_updates": 6}
    small_rl.run(inputs, tmp_path / "unbroken", "ppo", **settings)

    class Killed(BaseException):
        pass

    class Killer(small_rl.Recorder):
        def __call__(self, metrics: Any, step: int) -> None:
            if step == 4 and "rl/loss" in metrics:
                raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_rl, "Recorder", Killer)
        with pytest.raises(Killed):
            small_rl.run(inputs, tmp_path / "killed", "ppo", **settings)
    (tmp_path / "killed/out").rmdir()
    small_rl.run(inputs, tmp_path / "killed", "ppo", **settings)
    assert tiny.contents(tmp_path / "killed/out") == tiny.contents(tmp_path / "unbroken/out")


def test_rl_refuses_dropout(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        PreflowError, match=r"training\.dropout is 0\.1, and rl learns from what it samples: set it to 0"
    ):
        small_rl.run(inputs, tmp_path / "run", training=Training(method="lora", dropout=0.1))


@pytest.mark.parametrize(
    ("settings", "why"), [({"method": "qlora"}, "in 4 bits would lose"), ({"optimizer": "adamw_8bit"}, "in blocks")]
)
def test_what_cannot_be_divided_among_processes_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Training.model_validate({"shard": True} | settings)
