"""What the planner says of a stage's disk beside the bytes that its scratch folder and its outputs really come to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.plan.sizes import of_folder
from flows.plan.work import checkpoint_of, disk_of
from rlhf.checkpoints import Checkpoints
from rlhf.models import Policy, new_policy
from rlhf.sizes import How
from tasks.config.params import Params
from tests.tasks import small_rl, test_rejection_sampling, test_reward_model, tiny


@pytest.fixture(autouse=True)
def larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy whose weights outweigh what is written beside them."""

    def policy(seed: int = 0) -> Policy:
        return new_policy(
            tiny.chat(), seed, hidden_size=96, num_layers=2, num_heads=4, intermediate_size=256, max_tokens=64
        )

    monkeypatch.setattr(tiny, "policy", policy)


@pytest.fixture
def most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Bytes of the run's folder at the most: after a checkpoint was written, before an older one goes, and by now."""
    found = [0]
    retain = Checkpoints._retain

    def look(checkpoints: Checkpoints | None = None) -> int:
        files = {path.stat().st_ino: path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()}
        found.append(sum(files.values()))  # a file that has two names counts once
        if checkpoints:
            retain(checkpoints)
        return max(found)

    monkeypatch.setattr(Checkpoints, "_retain", look)
    return look


def said(tmp_path: Path, module: str, **section: Any) -> float:
    values = Params().model_dump(by_alias=True)
    values[module] |= section
    sizes, how = of_folder(tmp_path / "policy"), How()
    return disk_of(module, values[module], values, sizes, how, checkpoint_of(module, values[module], sizes, how))


def test_ppo_keeps_its_critic_too(tmp_path: Path, most: Callable[[], int]) -> None:
    settings = {"algorithm": "ppo", "num_updates": 12, "val_every": 4, "checkpoint_every": 3}
    small_rl.run(small_rl.save_inputs(tmp_path), tmp_path / "run", "ppo")
    assert 0.98 * most() < said(tmp_path, "rl", **settings) < 1.2 * most()


@pytest.mark.parametrize("ensemble", [1, 2])
def test_every_reward_model_keeps_checkpoints(ensemble: int, tmp_path: Path, most: Callable[[], int]) -> None:
    test_reward_model.run(
        test_reward_model.save_inputs(tmp_path), tmp_path / "run", ensemble=ensemble, checkpoint_every=2
    )
    assert 0.98 * most() < said(tmp_path, "reward_model", ensemble=ensemble) < 1.1 * most()


def test_both_selections_keep_checkpoints(tmp_path: Path, most: Callable[[], int]) -> None:
    test_rejection_sampling.run(test_rejection_sampling.save_inputs(tmp_path), tmp_path / "run")
    assert 0.98 * most() < said(tmp_path, "rejection_sampling") < 1.1 * most()
