import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from rlhf import online
from rlhf.errors import PreflowError
from rlhf.models import load_policy
from rlhf.records import read_rows, val_half, write_rows
from tasks.config import read_yaml
from tasks.config.algorithms.on_policy import Grpo, Ppo, Reinforce, Rloo
from tasks.config.generation import Generation
from tasks.config.params import Algorithms
from tasks.config.rl import Rl
from tasks.graph import load_graph
from tasks.journal import Log
from tasks.rl import _keep, rl
from tasks.stage import _inputs
from tests.tasks import tiny

REPO = Path(__file__).parents[2]
QUICK: dict[str, Any] = {
    "num_updates": 12, "lr": 0.02, "warmup_steps": 1, "val_every": 4, "checkpoint_every": 3,
    "kl_coef": 0.05, "max_batch_tokens": 256,
}  # fmt: skip
GENERATION = Generation(max_new_tokens=6)
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
    tiny.save_prompts(tmp_path / "prompts", num_val=16)
    return {
        "policy": tmp_path / "policy",
        "reference": tmp_path / "policy",
        "reward_model": tmp_path / "policy_rm",
        "held_out": tmp_path / "held_out_rm",
        "reward_metrics": tmp_path / "reward_metrics.json",
        "prompts": tmp_path / "prompts",
    }


def run(inputs: dict[str, Path], folder: Path, name: str = "rloo", algorithm: Any = None, **settings: Any) -> Recorder:
    log = Recorder()
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    config = Rl.model_validate({**QUICK, "algorithm": name, **settings})
    rl(
        config, generation=GENERATION, algorithm=algorithm or BLOCKS[name], seed=0, out=folder / "out",
        scratch=folder / "scratch", log=log, **inputs,
    )  # fmt: skip
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
        assert build(**getattr(blocks, name).knobs(), fixed_length=9).critic == (name == "ppo")


def test_a_fixed_length_divides_by_the_longest_completion_there_may_be(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The same rollouts: Σℓ/tokens by token, Σℓ/(B·L) by fixed length."""
    steps = {}
    for how in ("token", "fixed"):
        block = Reinforce(prompts_per_update=4, group_size=2, aggregation=how)  # type: ignore[arg-type]
        steps[how] = run(inputs, tmp_path / how, "reinforce", block, num_updates=1).steps[0]
    tokens, gradient = steps["token"]["rl/tokens"], steps["token"]["rl/grad_norm"]
    assert steps["fixed"]["rl/tokens"] == tokens < 4 * 2 * 6
    assert steps["fixed"]["rl/grad_norm"] * 4 * 2 * 6 == pytest.approx(gradient * tokens, rel=1e-4)


def test_k1_is_no_loss() -> None:
    """Its expected gradient is 0: the leash would hold nothing."""
    with pytest.raises(PreflowError, match=r"grpo\.kl_estimator"):
        Grpo.parse({"kl_estimator": "k1"}, "grpo")


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_prompts_are_said_with_the_knob(split: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    (inputs["prompts"] / f"{split}.jsonl").write_text("")
    with pytest.raises(PreflowError, match=rf"{split}\.jsonl holds 0 prompts.*prepare\.val_share"):
        run(inputs, tmp_path / "none")


def test_prompts_without_room_for_an_answer_are_dropped_and_counted(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = list(read_rows(inputs["prompts"] / "train.jsonl"))
    long = {"id": "z", "pool": "rl", "messages": [{"role": "user", "content": "red " * 57}]}  # 64 positions, 6 to come
    write_rows(inputs["prompts"] / "train.jsonl", [*rows, long])
    run(inputs, tmp_path / "long", num_updates=1)
    assert json.loads((tmp_path / "long/out/metrics.json").read_text())["train_dropped_long"] == 1


def test_looks_are_at_one_half_of_val(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other half holds cannot matter: the gate's candidate is chosen there."""
    rows = list(read_rows(inputs["prompts"] / "val.jsonl"))
    other = {row["id"] for row in val_half(rows, "selection")}
    assert 0 < len(other) < len(rows)
    run(inputs, tmp_path / "all", num_updates=1)
    write_rows(inputs["prompts"] / "val.jsonl", [row for row in rows if row["id"] not in other])
    run(inputs, tmp_path / "half", num_updates=1)
    assert tiny.contents(tmp_path / "all/out") == tiny.contents(tmp_path / "half/out")


def test_ppo_is_chosen_by_configuration_alone(inputs: dict[str, Path], tmp_path: Path) -> None:
    params = {
        "rl": {**QUICK, "algorithm": "ppo", "num_updates": 1},
        "algorithms": {"ppo": {"prompts_per_update": 4, "value_lr": 0.02}},
        "generation": {"max_new_tokens": 6},
    }
    given = _inputs(rl, Namespace(params="rl", **inputs), params)
    assert isinstance(given["algorithm"], Ppo)
    log = Recorder()
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    rl(**given, out=tmp_path / "out", scratch=tmp_path / "scratch", log=log)
    assert "rl/value_loss" in log.steps[0] and log.steps[0]["rl/lr_value"] == 0.02
    shutil.copy(REPO / "dvc.yaml", tmp_path)
    shown = read_yaml(REPO / "params.yaml")
    shown["rl"]["algorithm"] = "ppo"
    (tmp_path / "params.yaml").write_text(json.dumps(shown))
    assert load_graph(tmp_path).stages["rl"].params == ("seed", "generation", "rl", "algorithms.ppo")
