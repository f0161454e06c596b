"""Stage `rl` beside its plain loop: other rewards, early stop, looks kept, demonstrations, fresh prompts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from rlhf.errors import PreflowError
from rlhf.models import load_policy
from rlhf.records import read_rows
from rlhf.rewards import Asked, Component, compose
from rlhf.sampler import Completion
from rlhf.supervised import mean_nll
from tasks.config.generation import Generation
from tests.tasks import small_rl, tiny
from tests.tasks.small_rl import BLOCKS, NO_MODEL, metrics_of, run, save_inputs, stopped


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


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


def test_a_judge_alone_cannot_choose_the_policy_to_keep(inputs: dict[str, Path], tmp_path: Path) -> None:
    held_out = {"held_out": inputs.pop("held_out")}
    alone = {"reward_model": 0.0, "judge": 1.0, "judge_server": {"model": "judge", "attempts": 1}}
    with pytest.raises(PreflowError, match=r"rl\.select_best to false, or .* --held-out"):
        run(inputs, tmp_path / "alone", rewards=alone)

    def reach(where: str, given: dict[str, Path], select_best: bool, also: dict[str, float]) -> None:
        with pytest.raises(Reached):
            run(given, tmp_path / where, rewards=alone | also, select_best=select_best)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.rl.trainable", reached)
        reach("last", inputs, False, {})
        reach("watched", inputs | held_out, True, {})
        reach("another", inputs, True, {"missing_stop": 0.5})


class Reached(Exception):
    """Everything was accepted so far."""


def reached(*_: Any) -> Any:
    raise Reached


@pytest.mark.parametrize(("algorithm", "kl_coef"), [("ppo", 0.0), ("dapo", 0.1), ("online_dpo", 0.1)])
def test_a_target_that_nothing_would_hold_to_is_refused(
    inputs: dict[str, Path], tmp_path: Path, algorithm: str, kl_coef: float
) -> None:
    with pytest.raises(PreflowError, match=r"rl\.kl_target is 3\.0, and .* charges no KL"):
        run(inputs, tmp_path / "run", algorithm, kl_target=3.0, kl_coef=kl_coef)


def test_what_scorers_say_of_themselves_is_logged(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Judging:
        figures: ClassVar[dict[str, float]] = {"judge_unparsable": 0.125}

        def __call__(self, prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
            return stopped(prompts, completions)

    monkeypatch.setattr("tasks.rl.build", lambda *_, **__: compose({"judge": (1.0, Judging())}))
    for name in ("rloo", "dapo"):
        log = run(inputs, tmp_path / name, name, num_updates=1)
        assert log.steps[0]["rl/judge_unparsable"] == log.steps[0]["rl/val_judge_unparsable"] == 0.125


def test_passes_over_the_prompts_run_on_so_that_updates_are_full(inputs: dict[str, Path], tmp_path: Path) -> None:
    count = len(list(read_rows(inputs["prompts"] / "train.jsonl")))
    block = BLOCKS["reinforce"].model_copy(update={"prompts_per_update": count - 2, "group_size": 1, "lr": 1e-9})
    seen: list[int] = []

    def counting(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        seen.append(len({tuple(prompt.ids) for prompt in prompts}))
        return stopped(prompts, completions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.rl.build", lambda *_, **__: compose({"made_up": (1.0, counting)}))
        run(inputs, tmp_path / "run", "reinforce", block, num_updates=4, val_every=4)
    assert seen[1:-1] == [count - 2] * 4


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_progress_counts_updates_as_the_params_do(inner_steps: int, inputs: dict[str, Path], tmp_path: Path) -> None:
    block = BLOCKS["rloo"].model_copy(update={"inner_steps": inner_steps})
    log = run(inputs, tmp_path / "run", "rloo", block, num_updates=4, val_every=4)
    assert log.counted == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len([step for step in log.steps.values() if "rl/loss" in step]) == 4 * inner_steps


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


def test_demonstrations_are_learnt_at_temperature_1(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts are sampled and learnt at T = 2; at step 0 the NLL of all demonstrations is that of the plain policy."""
    inputs["demonstrations"] = tiny.save_demonstrations(tmp_path / "demonstrations")
    monkeypatch.setattr(small_rl, "GENERATION", Generation(max_new_tokens=6, temperature=2.0))
    rows = list(read_rows(inputs["demonstrations"] / "train.jsonl"))
    log = run(inputs, tmp_path / "run", num_updates=1, ptx_coef=0.5, ptx_batch_size=len(rows))
    policy = load_policy(inputs["policy"])
    expected = mean_nll(policy, [policy.chat.encode_conversation(row["messages"]) for row in rows], 256)
    assert log.steps[0]["rl/ptx_nll"] == pytest.approx(expected, rel=1e-5)


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
