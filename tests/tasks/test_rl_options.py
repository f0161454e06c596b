"""Stage `rl` beside its plain loop: other rewards, early stop, looks kept, demonstrations, fresh prompts."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.errors import PreflowError
from rlhf.models import load_policy
from rlhf.records import read_rows
from rlhf.rewards import Asked, Component, compose
from rlhf.sampler import Completion
from rlhf.supervised import mean_nll
from tasks.rl_looks import parted
from tests.tasks import tiny
from tests.tasks.small_rl import BLOCKS, NO_MODEL, metrics_of, run, save_inputs


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


def stopped(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
    return torch.tensor([float(one.stop_reason == "stop") for one in completions])


# Rewards


def test_rewards_need_no_model_and_the_best_is_then_chosen_by_reward(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("reward_model", "held_out", "reward_metrics"):
        del inputs[name]
    log = run(inputs, tmp_path / "run", rewards=NO_MODEL)
    metrics = metrics_of(tmp_path / "run")
    looks = metrics["val"]
    assert looks[-1]["reward"] > looks[0]["reward"] + 0.1
    assert [look["held_out_reward"] for look in looks] == [None] * 4
    assert metrics["kept"] == max(looks, key=lambda look: look["reward"])["update"]
    assert log.steps[0]["rl/reward_missing_stop"] == log.steps[0]["rl/reward"] == log.steps[0]["rl/stop_rate"] - 1
    assert "rl/val_held_out_reward" not in log.steps[0] and "rl/reward_reward_model" not in log.steps[0]


def test_a_critic_can_start_from_the_policy(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("reward_model", "held_out", "reward_metrics"):
        del inputs[name]
    run(inputs, tmp_path / "run", "ppo", rewards=NO_MODEL)
    looks = metrics_of(tmp_path / "run")["val"]
    assert looks[-1]["reward"] > looks[0]["reward"] + 0.1


def test_components_are_weighed_and_logged_one_by_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    log = run(inputs, tmp_path / "run", num_updates=1, rewards={"missing_stop": 3.0, "reward_model": 0.5})
    seen = log.steps[0]
    for prefix in ("rl/", "rl/val_"):
        total = 0.5 * seen[f"{prefix}reward_reward_model"] + 3.0 * seen[f"{prefix}reward_missing_stop"]
        assert seen[f"{prefix}reward"] == pytest.approx(total, abs=1e-6)


def test_a_reward_model_without_a_report_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    del inputs["reward_metrics"]
    with pytest.raises(PreflowError, match="add --reward-metrics"):
        run(inputs, tmp_path / "refused")
    run(inputs, tmp_path / "allowed", num_updates=1, allow_untrusted=True)


# Early stop


def looks(*pairs: tuple[float, float | None]) -> list[dict[str, Any]]:
    return [{"update": 10 * number, "reward": one, "held_out_reward": two} for number, (one, two) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 0), (1, 1), (2, 0.9), (3, 0.8)], True),
        ([(0, 0), (1, 1), (2, 0.9)], False),  # only one look so far
        ([(0, 0), (1, 1), (2, 0.9), (3, 1.1)], False),  # a new best
        ([(0, 0), (1, 1), (0.9, 0.9), (2, 0.9)], False),  # the reward fell too: no parting
        ([(0, 0), (1, 1), (0.9, 0.9), (2, 0.9), (2, 0.8)], True),
        ([(0, 0), (1, 1), (2, 1), (3, 1)], False),  # as good as the best is not below it
        ([(0, 1), (1, 0.9), (2, 0.8)], True),  # the start was the best
        ([(0, None), (1, None), (2, None), (3, None)], False),
    ],
)
def test_reward_and_held_out_part(pairs: list[tuple[float, float | None]], expected: bool) -> None:
    assert parted(looks(*pairs), patience=2) is expected


@pytest.fixture
def contrary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held-out reward that is lost as the other one is won."""
    against: Component = lambda prompts, completions: -stopped(prompts, completions)  # noqa: E731
    monkeypatch.setattr("tasks.rl._witness", lambda *_: against)


@pytest.mark.usefixtures("contrary")
def test_training_ends_where_the_held_out_reward_parts_from_the_reward(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "on", rewards=NO_MODEL, stop_early=True, patience=2, val_every=2)
    metrics = metrics_of(tmp_path / "on")
    assert metrics["stopped_early"] == metrics["val"][-1]["update"] < 12
    assert parted(metrics["val"], 2) and not parted(metrics["val"][:-1], 2)
    assert metrics["kept"] == max(metrics["val"], key=lambda look: look["held_out_reward"])["update"]
    run(inputs, tmp_path / "off", rewards=NO_MODEL, stop_early=False, val_every=2)
    assert metrics_of(tmp_path / "off")["stopped_early"] is None
    assert metrics_of(tmp_path / "off")["val"][: len(metrics["val"])] == metrics["val"]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.usefixtures("contrary")
@pytest.mark.parametrize("place", ["tasks.rl.parted", "tasks.rl._save"])
def test_a_run_killed_around_its_early_stop_gives_the_same_bytes(
    place: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"rewards": NO_MODEL, "stop_early": True, "patience": 2, "val_every": 2}
    run(inputs, tmp_path / "unbroken", select_best=False, **settings)

    def dying(looks: Any, *_: Any) -> bool:
        if place.endswith("_save") or len(looks) > 2:
            raise Killed
        return False

    with monkeypatch.context() as patch:
        patch.setattr(place, dying)
        with pytest.raises(Killed):
            run(inputs, tmp_path / "broken", select_best=False, **settings)
    shutil.rmtree(tmp_path / "broken" / "out")
    run(inputs, tmp_path / "broken", select_best=False, **settings)
    assert tiny.contents(tmp_path / "broken" / "out") == tiny.contents(tmp_path / "unbroken" / "out")
    assert metrics_of(tmp_path / "broken")["kept"] == metrics_of(tmp_path / "broken")["stopped_early"]


# Looks


def test_the_policy_of_every_look_can_be_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", keep_looks=True, select_best=False)
    out = tmp_path / "run" / "out"
    assert sorted(folder.name for folder in (out / "looks").iterdir()) == ["0000", "0004", "0008", "0012"]
    assert tiny.contents(out / "looks" / "0000") == tiny.contents(inputs["policy"])
    assert tiny.contents(out / "looks" / "0012") == tiny.contents(out / "policy")
    run(inputs, tmp_path / "none", num_updates=1)
    assert not (tmp_path / "none" / "out" / "looks").exists()


# Demonstrations


def test_demonstrations_are_remembered_for_a_price(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Without them the answers that the demonstrations give become no likelier; with them they do."""
    inputs["demonstrations"] = tiny.save_demonstrations(tmp_path / "demonstrations")
    found = {}
    for ptx_coef in (0.0, 1.0):
        log = run(inputs, tmp_path / str(ptx_coef), ptx_coef=ptx_coef, ptx_batch_size=4, select_best=False)
        assert ("rl/ptx_nll" in log.steps[0]) == bool(ptx_coef)
        policy = load_policy(tmp_path / str(ptx_coef) / "out" / "policy")
        rows = read_rows(tmp_path / "demonstrations" / "train.jsonl")
        found[ptx_coef] = mean_nll(policy, [policy.chat.encode_conversation(row["messages"]) for row in rows], 256)
    assert found[1.0] < found[0.0] - 0.3


def test_demonstrations_that_are_asked_for_and_missing_are_said(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"ptx_coef is 0\.5 and there are 0 demonstrations"):
        run(inputs, tmp_path / "run", ptx_coef=0.5)


# Dynamic sampling


def test_groups_of_equal_reward_make_place_for_others(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Stopped or not is all that counts: whole groups that did, or did not, are common."""
    log = run(inputs, tmp_path / "run", "dapo", rewards=NO_MODEL)
    steps = [step for step in log.steps.values() if "rl/dropped_groups" in step]
    assert any(0 < step["rl/dropped_groups"] < 1 for step in steps)
    assert all(step["rl/zero_std_groups"] == 0 for step in steps if "rl/zero_std_groups" in step)


def constant_after(calls: int) -> Component:
    """Rewards that tell completions apart only so often."""
    left = [calls]

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        left[0] -= 1
        return stopped(prompts, completions) if left[0] >= 0 else torch.zeros(len(completions))

    return component


def test_an_update_with_nothing_to_teach_is_passed_over_but_not_the_first(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(component: Component) -> None:
        monkeypatch.setattr("tasks.rl.build", lambda *_, **__: compose({"made_up": (1.0, component)}))

    block = BLOCKS["dapo"].model_copy(update={"prompts_per_update": 4})
    use(constant_after(6))  # a look, and at most five batches of prompts
    log = run(inputs, tmp_path / "run", "dapo", block, num_updates=8, val_every=8)
    assert log.steps[0]["rl/grad_norm"] > 0
    last = log.steps[7 * block.inner_steps]
    assert (last["rl/dropped_groups"], last["rl/grad_norm"], last["rl/loss"]) == (1.0, 0.0, 0.0)
    assert all(math.isfinite(value) for step in log.steps.values() for value in step.values())
    use(constant_after(1))
    with pytest.raises(PreflowError, match=r"no prompt of 4 tries .* group_size \(4\)"):
        run(inputs, tmp_path / "never", "dapo", block)
