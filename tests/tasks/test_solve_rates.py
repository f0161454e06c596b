"""The difficulty filter: which prompts a store of samples leaves, and what stage `rl` makes of it."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.records import read_rows
from rlhf.rollouts import Rollout, write_rollouts
from tasks.config import ConfigError
from tasks.config.rl import Rl
from tasks.solve_rates import solvable, solve_rates
from tests.tasks.small_rl import NO_MODEL, metrics_of, run, save_inputs

RATES = {"never": [0, 0, 0, 0], "once": [0, 1, 0, 0], "mostly": [1, 1, 0, 1], "always": [1, 1, 1, 1]}
ROWS: list[dict[str, Any]] = [{"id": name} for name in (*RATES, "unknown")]


def store(folder: Path, rewards: dict[str, list[Any]]) -> Path:
    rollouts = [
        Rollout(
            prompt_id=name, group=name, prompt_ids=[1], completion_ids=[2], logprobs=[-1.0], stop_reason="stop",
            text="", reward=reward, policy="p",
        )
        for name, group in rewards.items()
        for reward in group
    ]  # fmt: skip
    write_rollouts(folder / "rollouts.jsonl", rollouts)
    return folder


def kept(samples: Path, **limits: float) -> tuple[list[str], dict[str, float]]:
    keep = solvable(Rl(**limits), samples)
    assert keep is not None
    rows, counts = keep(ROWS)
    return [row["id"] for row in rows], counts


def test_rates_are_means_over_a_prompt_s_samples(tmp_path: Path) -> None:
    assert solve_rates(store(tmp_path, RATES)) == {"never": 0.0, "once": 0.25, "mostly": 0.75, "always": 1.0}


def test_both_limits_are_within(tmp_path: Path) -> None:
    samples = store(tmp_path, RATES)
    names, counts = kept(samples, min_solve_rate=0.25, max_solve_rate=0.75)
    assert names == ["once", "mostly"]
    assert counts == {"dropped_hard": 1, "dropped_easy": 1, "dropped_unmeasured": 1, "kept_by_solve_rate": 2}
    assert kept(samples, max_solve_rate=0.99)[0] == ["never", "once", "mostly"]
    assert kept(samples, min_solve_rate=0.01)[0] == ["once", "mostly", "always"]


def test_without_limits_nothing_is_asked_or_left_out() -> None:
    assert solvable(Rl(), None) is None


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"a": [0, 0]}, "0 of 5 prompts are left by rl.min_solve_rate 0.5 .*widen the limits"),
        ({"never": [0, 1.5]}, "has the reward 1.5, a solve rate is 0 to 1"),
        ({"never": [None]}, "has the reward None"),
    ],
)
def test_what_leaves_nothing_or_is_no_rate_is_refused(
    rewards: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PreflowError, match=message):
        kept(store(tmp_path, rewards), min_solve_rate=0.5)


def test_limits_without_samples_or_crossed_are_refused() -> None:
    with pytest.raises(PreflowError, match="give --samples, or set them to 0 and 1"):
        solvable(Rl(min_solve_rate=0.1), None)
    with pytest.raises(ConfigError, match=r"min_solve_rate 0\.6 is above max_solve_rate 0\.4"):
        Rl.parse({"min_solve_rate": 0.6, "max_solve_rate": 0.4}, "rl")


def test_the_stage_trains_on_what_is_left(tmp_path: Path) -> None:
    """On one prompt of twelve: a seed of rollouts that the others would share is asked of that prompt alone."""
    inputs = save_inputs(tmp_path)
    for name in ("reward_model", "held_out", "reward_metrics"):
        del inputs[name]
    names = [row["id"] for row in read_rows(inputs["prompts"] / "train.jsonl")]
    rates: dict[str, list[Any]] = {name: [0, 1] if name == names[3] else [0, 0] for name in names[:10]}
    samples = store(tmp_path / "samples", rates)
    run(inputs | {"samples": samples}, tmp_path / "run", num_updates=2, min_solve_rate=0.5, rewards=NO_MODEL)
    metrics = metrics_of(tmp_path / "run")
    counts = [metrics[f"train_{name}"] for name in ("kept_by_solve_rate", "dropped_hard", "dropped_unmeasured")]
    assert counts == [1, 9, 2]
