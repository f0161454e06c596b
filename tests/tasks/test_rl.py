import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import online
from rlhf.algorithms import ALGORITHMS
from rlhf.errors import PreflowError
from rlhf.models import load_policy
from rlhf.records import read_rows, val_half, write_rows
from rlhf.rewards import Asked
from rlhf.sampler import Completion
from tasks.arguments import inputs_of
from tasks.config import read_yaml
from tasks.config.algorithms.on_policy import Ppo, Reinforce
from tasks.config.params import Algorithms
from tasks.graph import load_graph
from tasks.rl import rl
from tasks.rl_looks import _keep
from tests.tasks import tiny
from tests.tasks.small_rl import BLOCKS, QUICK, Recorder, metrics_of, run, save_inputs

REPO = Path(__file__).parents[2]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_reward_rises_and_the_vocabulary_of_metrics_is_complete(
    name: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Cut-off completions cost 2, so the first thing that any algorithm must learn is to stop."""
    log = run(inputs, tmp_path / name, name)
    metrics = metrics_of(tmp_path / name)
    first, last = metrics["val"][0], metrics["val"][-1]
    assert [look["update"] for look in metrics["val"]] == [0, 4, 8, 12]
    assert last["reward"] > first["reward"] + 0.3
    assert last["stop_rate"] > first["stop_rate"]
    assert abs(first["kl"]) < 1e-4 and last["kl"] > 0.01
    assert metrics["stopped_early"] is None and metrics["algorithm"] == name
    wanted = "reward reward_reward_model objective kl kl_k3 kl_token entropy length stop_rate tokens advantage_std"
    wanted += " sampler_gap sampler_gap_max kl_coef val_reward val_reward_reward_model val_held_out_reward"
    wanted += " loss lr grad_norm nonfinite seconds_sampling seconds_scoring"
    wanted += "" if name in ("reinforce", "online_dpo") else " ratio_max clip_fraction approx_kl"
    wanted += " zero_std_groups" + " kl_loss" * (name in ("grpo", "gspo", "cispo"))
    wanted += " value_loss explained_variance return return_std lr_value grad_norm_value" * (name == "ppo")
    wanted += " dropped_groups reward_sampled" * (name == "dapo")
    assert {f"rl/{key}" for key in wanted.split()} <= set(log.steps[0])
    assert log.steps[0]["rl/sampler_gap"] < 1e-5
    assert load_policy(tmp_path / name / "out" / "policy").chat.vocab_size == tiny.chat().vocab_size


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("name", "place", "kill_at", "settings"),
    [
        ("rloo", "rlhf.online.rollout_metrics", 1, {}),  # before the first checkpoint
        ("rloo", "rlhf.online.rollout_metrics", 6, {"keep_looks": True}),
        ("ppo", "rlhf.online.rollout_metrics", 6, {"ptx_coef": 0.5, "ptx_batch_size": 5}),
        (
            "dapo",
            "rlhf.online.rollout_metrics",
            4,
            {"rewards": {"missing_stop": 1.0, "reward_model": 0.0}, "kl_target": None},
        ),
        ("rloo", "tasks.rl_looks._keep", 2, {}),  # while the best policy so far is put away
        ("rloo", "tasks.rl._save", 1, {"keep_looks": True}),  # after the last update
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(
    name: str,
    place: str,
    kill_at: int,
    settings: dict[str, Any],
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # an adaptive coefficient has to come back too
    settings = {"num_updates": 6, "val_every": 3, "checkpoint_every": 2, "kl_target": 0.5, **settings}
    inputs["demonstrations"] = tiny.save_demonstrations(tmp_path / "demonstrations")
    block = BLOCKS[name].model_copy(update={"importance_cap": 1.5})
    run(inputs, tmp_path / "unbroken", name, block, **settings)
    original: Any = {"rollout_metrics": online.rollout_metrics, "_keep": _keep, "_save": None}[place.split(".")[-1]]
    calls = [0]

    def dying(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == kill_at:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(place, dying)
    with pytest.raises(Killed):
        run(inputs, tmp_path / "broken", name, block, **settings)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "broken" / "out")
    run(inputs, tmp_path / "broken", name, block, **settings)
    assert tiny.contents(tmp_path / "broken" / "out") == tiny.contents(tmp_path / "unbroken" / "out")


def test_the_policy_kept_is_the_one_the_held_out_model_likes_best(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "best", select_best=True)
    run(inputs, tmp_path / "last", select_best=False)
    metrics = {name: metrics_of(tmp_path / name) for name in ("best", "last")}
    looks = metrics["best"]["val"]
    assert metrics["best"]["kept"] == max(looks, key=lambda look: look["held_out_reward"])["update"]
    assert metrics["last"]["kept"] == 12 and metrics["last"]["val"] == looks
    policies = [tiny.contents(tmp_path / name / "out/policy") for name in ("best", "last")]
    assert (policies[0] == policies[1]) == (metrics["best"]["kept"] == 12)


def test_the_kept_policy_is_the_one_named_where_rewards_came_out_otherwise_the_second_time(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed after a look that was the best so far and goes on from before it; the look is now the worst."""
    merits = iter([1.0, 2.0, 0.0, 0.5])

    def made_up(prompts: Sequence[Asked], completions: Sequence[Completion]) -> torch.Tensor:
        return torch.full((len(completions),), next(merits))

    monkeypatch.setattr("tasks.rl._witness", lambda *_: made_up)
    settings: dict[str, Any] = {"num_updates": 6, "val_every": 3, "checkpoint_every": 2}
    calls = [0]

    def dying(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:  # the update right after the second look
            raise Killed
        return original(*arguments)

    original = online.rollout_metrics
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.online.rollout_metrics", dying)
        with pytest.raises(Killed):
            run(inputs, tmp_path / "run", **settings)
    shutil.rmtree(tmp_path / "run" / "out")
    run(inputs, tmp_path / "run", **settings)
    assert metrics_of(tmp_path / "run")["kept"] == 0
    assert tiny.contents(tmp_path / "run/out/policy") == tiny.contents(inputs["policy"])


def test_policies_that_no_checkpoint_can_name_as_best_are_removed(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merits = iter(range(100))
    monkeypatch.setattr(
        "tasks.rl._witness", lambda *_: lambda _, completions: torch.full((len(completions),), float(next(merits)))
    )
    run(inputs, tmp_path / "run", num_updates=8, val_every=1, checkpoint_every=2)
    # Checkpoints of update 8 and 6 are there; that of 6 holds the looks up to 5.
    kept = sorted(folder.name for folder in (tmp_path / "run/scratch").glob("best-*"))
    assert kept == ["best-0005", "best-0006", "best-0007", "best-0008"]


def test_a_leash_that_is_tight_keeps_the_policy_near(inputs: dict[str, Path], tmp_path: Path) -> None:
    ends = {}
    for kl_coef in (0.0, 5.0):
        run(inputs, tmp_path / str(kl_coef), kl_coef=kl_coef)
        ends[kl_coef] = metrics_of(tmp_path / str(kl_coef))["val"][-1]["kl"]
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
    blocks = Algorithms()
    assert set(ALGORITHMS) == set(BLOCKS) <= set(Algorithms.model_fields)
    for name, build in ALGORITHMS.items():
        algorithm = build(**getattr(blocks, name).knobs(), fixed_length=9)
        assert algorithm.critic == (name == "ppo") and algorithm.dynamic_sampling == (name == "dapo")


def test_a_fixed_length_divides_by_the_longest_completion_there_may_be(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The same rollouts: Σℓ/tokens by token, Σℓ/(B·L) by fixed length."""
    steps = {}
    for how in ("token", "fixed"):
        block = Reinforce(prompts_per_update=4, group_size=2, aggregation=how)  # type: ignore[arg-type]
        steps[how] = run(inputs, tmp_path / how, "reinforce", block, num_updates=1).steps[0]
    tokens, gradient = steps["token"]["rl/tokens"], steps["token"]["rl/grad_norm"]
    assert steps["fixed"]["rl/tokens"] == tokens < 4 * 2 * 6
    assert steps["fixed"]["rl/grad_norm"] * 4 * 2 * 6 == pytest.approx(gradient * tokens, rel=1e-4)


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
    assert metrics_of(tmp_path / "long")["train_dropped_long"] == 1


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
        "algorithms": {"ppo": {"prompts_per_update": 4, "lr": 0.01, "value_lr": 0.02}},
        "generation": {"max_new_tokens": 6},
    }
    given = inputs_of(rl, Namespace(params="rl", demonstrations=None, samples=None, lexicon=None, **inputs), params)
    assert isinstance(given["algorithm"], Ppo)
    log = Recorder()
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    rl(**given, out=tmp_path / "out", scratch=tmp_path / "scratch", log=log)
    assert "rl/value_loss" in log.steps[0] and (log.steps[0]["rl/lr"], log.steps[0]["rl/lr_value"]) == (0.01, 0.02)
    shutil.copy(REPO / "dvc.yaml", tmp_path)
    shown = read_yaml(REPO / "params.yaml")
    shown["rl"]["algorithm"] = "ppo"
    (tmp_path / "params.yaml").write_text(json.dumps(shown))
    assert load_graph(tmp_path).stages["rl"].params == ("seed", "generation", "rl", "algorithms.ppo", "training")
