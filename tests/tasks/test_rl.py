import json
from pathlib import Path
from typing import Any

import pytest

from rlhf import online
from rlhf.errors import PreflowError
from rlhf.models import load_policy
from tasks.config.algorithms import Algorithms, Grpo, Ppo, Reinforce, Rloo
from tasks.config.rl import Rl
from tasks.journal import Log
from tasks.rl import _keep, rl
from tests.tasks import tiny

QUICK: dict[str, Any] = {
    "num_updates": 12, "lr": 0.02, "warmup_steps": 1, "max_new_tokens": 6, "val_every": 4, "checkpoint_every": 3,
    "kl_coef": 0.05, "max_batch_tokens": 256,
}  # fmt: skip
BLOCKS: dict[str, Reinforce | Rloo | Grpo | Ppo] = {
    "reinforce": Reinforce(prompts_per_update=8, group_size=4),
    "rloo": Rloo(prompts_per_update=8, group_size=4),
    "grpo": Grpo(prompts_per_update=8, group_size=4),
    "ppo": Ppo(prompts_per_update=12, group_size=3, value_lr=0.02),
}


class Recorder(Log):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(None)
        self.steps: dict[int, dict[str, float]] = {}

    def __call__(self, metrics: Any, step: int) -> None:
        self.steps.setdefault(step, {}).update(metrics)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    tiny.save_models(tmp_path)
    tiny.save_prompts(tmp_path / "prompts")
    return {
        "policy": tmp_path / "policy",
        "reference": tmp_path / "policy",
        "reward_model": tmp_path / "policy_rm",
        "held_out": tmp_path / "held_out_rm",
        "reward_metrics": tmp_path / "reward_metrics.json",
        "prompts": tmp_path / "prompts",
    }


def run(inputs: dict[str, Path], folder: Path, name: str = "rloo", **settings: Any) -> Recorder:
    log = Recorder()
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    config = Rl.model_validate({**QUICK, "algorithm": name, **settings})
    rl(config, algorithm=BLOCKS[name], seed=0, out=folder / "out", scratch=folder / "scratch", log=log, **inputs)
    return log


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_reward_rises_and_the_vocabulary_of_metrics_is_complete(
    name: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Cut-off completions cost 2, so the first thing that any algorithm must learn is to stop."""
    log = run(inputs, tmp_path / name, name)
    metrics = json.loads((tmp_path / name / "out" / "metrics.json").read_text())
    first, last = metrics["val"][0], metrics["val"][-1]
    assert [look["update"] for look in metrics["val"]] == [0, 4, 8, 12]
    assert last["reward"] > first["reward"] + 0.3
    assert last["stop_rate"] > first["stop_rate"]
    assert abs(first["kl"]) < 1e-4 and last["kl"] > 0.01
    wanted = "reward objective kl kl_k3 entropy length stop_rate tokens advantage_std sampler_gap kl_coef val_reward"
    wanted += " val_held_out_reward loss lr grad_norm nonfinite"
    wanted += {"reinforce": "", "grpo": " zero_std_groups ratio_max clip_fraction approx_kl kl_loss"}.get(
        name, " zero_std_groups ratio_max clip_fraction approx_kl"
    )
    if name == "ppo":
        wanted += " value_loss explained_variance return lr_value grad_norm_value"
    assert {f"rl/{key}" for key in wanted.split()} <= set(log.steps[0])
    assert log.steps[0]["rl/sampler_gap"] < 1e-5
    assert load_policy(tmp_path / name / "out" / "policy").chat.vocab_size == tiny.chat().vocab_size


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("name", "place", "kill_at"),
    [
        ("rloo", "rlhf.online.rollout_metrics", 1),  # before the first checkpoint
        ("rloo", "rlhf.online.rollout_metrics", 8),
        ("ppo", "rlhf.online.rollout_metrics", 8),
        ("rloo", "tasks.rl._keep", 2),  # while the best policy so far is put away
        ("rloo", "tasks.rl._save", 1),  # after the last update
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(
    name: str, place: str, kill_at: int, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"kl_target": 0.5}  # an adaptive coefficient has to come back too
    run(inputs, tmp_path / "unbroken", name, **settings)
    original: Any = {"rollout_metrics": online.rollout_metrics, "_keep": _keep, "_save": None}[place.split(".")[-1]]
    calls = [0]

    def dying(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == kill_at:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(place, dying)
    with pytest.raises(Killed):
        run(inputs, tmp_path / "broken", name, **settings)
    monkeypatch.undo()
    (tmp_path / "broken" / "out").rmdir()
    run(inputs, tmp_path / "broken", name, **settings)
    assert tiny.contents(tmp_path / "broken" / "out") == tiny.contents(tmp_path / "unbroken" / "out")


def test_the_policy_kept_is_the_one_the_held_out_model_likes_best(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "best", select_best=True)
    run(inputs, tmp_path / "last", select_best=False)
    metrics = {name: json.loads((tmp_path / name / "out/metrics.json").read_text()) for name in ("best", "last")}
    looks = metrics["best"]["val"]
    assert metrics["best"]["kept"] == max(looks, key=lambda look: look["held_out_reward"])["update"]
    assert metrics["last"]["kept"] == 12 and metrics["last"]["val"] == looks
    policies = [tiny.contents(tmp_path / name / "out/policy") for name in ("best", "last")]
    assert (policies[0] == policies[1]) == (metrics["best"]["kept"] == 12)


def test_a_leash_that_is_tight_keeps_the_policy_near(inputs: dict[str, Path], tmp_path: Path) -> None:
    ends = {}
    for kl_coef in (0.0, 5.0):
        run(inputs, tmp_path / str(kl_coef), kl_coef=kl_coef)
        ends[kl_coef] = json.loads((tmp_path / str(kl_coef) / "out/metrics.json").read_text())["val"][-1]["kl"]
    assert ends[5.0] < 0.5 * ends[0.0]


def test_an_untrusted_reward_model_is_refused_by_name_of_its_reasons(inputs: dict[str, Path], tmp_path: Path) -> None:
    inputs["reward_metrics"].write_text(json.dumps({"trusted": False, "reasons": ["accuracy 0.52 below 0.60"]}))
    with pytest.raises(PreflowError, match=r"accuracy 0\.52 below 0\.60.*rl\.allow_untrusted"):
        run(inputs, tmp_path / "refused")
    run(inputs, tmp_path / "allowed", allow_untrusted=True, num_updates=1)


def test_prompts_of_another_pool_are_not_used(inputs: dict[str, Path], tmp_path: Path) -> None:
    for path in inputs["prompts"].glob("*.jsonl"):
        path.write_text(path.read_text().replace('"pool": "rl"', '"pool": "preference"'))
    with pytest.raises(PreflowError, match="0 prompts of pool"):
        run(inputs, tmp_path / "none")


def test_every_block_fits_the_function_of_its_algorithm() -> None:
    from rlhf.algorithms import ALGORITHMS

    blocks = Algorithms()
    assert set(ALGORITHMS) == set(Algorithms.model_fields)
    for name, build in ALGORITHMS.items():
        assert build(**getattr(blocks, name).knobs()).critic == (name == "ppo")
