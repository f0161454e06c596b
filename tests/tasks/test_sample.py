import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import PreflowError
from rlhf.models import RewardModel, load_policy, token_logprobs
from rlhf.online import to_batch
from rlhf.records import read_rows, write_rows
from rlhf.rollouts import read_rollouts
from rlhf.sampler import Completion
from tasks.config.generation import Generation
from tasks.config.sample import Sample
from tasks.journal import Log
from tasks.sample import sample
from tests.tasks import tiny

GENERATION = Generation(max_new_tokens=12, temperature=0.8, unfinished_reward=-3.0)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Twelve prompts of the rl pool, and one each of another pool, too long, and of a role that is unknown."""
    tiny.save_models(tmp_path)
    tiny.save_prompts(tmp_path / "prompts")
    rows = [row | {"group": row["id"]} for row in read_rows(tmp_path / "prompts/train.jsonl")]
    others = [rows[0] | {"id": name, "pool": "rl"} for name in ("another", "beyond", "foreign")]
    others[0]["pool"] = "preference"
    others[1]["messages"] = [{"role": "user", "content": "red " * 50}]  # 53 tokens, and 64 - 12 = 52 are free
    others[2]["messages"] = [{"role": "system", "content": "red"}, *rows[0]["messages"]]
    write_rows(tmp_path / "prompts/train.jsonl", [*reversed(rows), *others])
    return {"policy": tmp_path / "policy", "reward_model": tmp_path / "policy_rm", "prompts": tmp_path / "prompts"}


def run(inputs: dict[str, Path], folder: Path, generation: Generation = GENERATION, **settings: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    config = Sample.model_validate({"num_prompts": 20, "group_size": 4, **settings})
    sample(config, generation=generation, seed=0, out=folder / "out", scratch=folder, log=Log.null(), **inputs)
    metrics: dict[str, Any] = json.loads((folder / "out/metrics.json").read_text())
    return metrics


def test_rollouts_hold_what_was_sampled_and_what_it_is_worth(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(inputs, tmp_path / "run")
    assert (metrics["prompts"], metrics["dropped_long"], metrics["dropped_role"]) == (12, 1, 1)
    rollouts = list(read_rollouts(tmp_path / "run/out/rollouts/rollouts.jsonl"))
    assert [one.prompt_id for one in rollouts] == [f"train{number:03d}" for number in range(12) for _ in range(4)]
    policy, judge = load_policy(inputs["policy"]), RewardModel.load(inputs["reward_model"])
    completions = [
        Completion(index, one.completion_ids, one.logprobs, one.stop_reason) for index, one in enumerate(rollouts)
    ]
    batch, kept = to_batch([one.prompt_ids for one in rollouts], completions, policy.chat.pad_id)
    with torch.no_grad():
        assert torch.allclose(kept, token_logprobs(policy.model, batch, 0.8), atol=1e-4)
        scores = judge(batch)
    for one, score in zip(rollouts, scores.tolist(), strict=True):
        assert one.reward == pytest.approx(score if one.stop_reason == "stop" else -3.0, abs=1e-4)
    assert {one.stop_reason for one in rollouts} == {"stop", "length"}


def test_a_verifier_needs_no_reward_model(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Asked for `yes` in the answer; the weights are 2 for that and 0.1 a token beyond 3."""
    path = inputs["prompts"] / "train.jsonl"
    write_rows(path, [row | {"meta": {"verifier": "regex", "answer": r"\byes\b"}} for row in read_rows(path)])
    del inputs["reward_model"]
    weights = {"reward_model": 0.0, "verifier": 2.0, "length": 0.1, "length_budget": 3}
    metrics = run(inputs, tmp_path / "run", rewards=weights)
    rollouts = list(read_rollouts(tmp_path / "run/out/rollouts/rollouts.jsonl"))
    right = [float("yes" in one.text.split() and one.stop_reason == "stop") for one in rollouts]
    over = [max(0, len(one.completion_ids) - 3) for one in rollouts]
    assert [one.reward for one in rollouts] == pytest.approx([2 * r - 0.1 * o for r, o in zip(right, over)])
    assert 0 < metrics["reward_verifier"] == pytest.approx(sum(right) / len(right))
    assert metrics["reward_length"] == pytest.approx(-sum(over) / len(over))


def test_what_cannot_be_scored_is_an_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match="a prompt has no verifier"):
        run(inputs, tmp_path / "unverified", rewards={"verifier": 1.0})
    del inputs["reward_model"]
    with pytest.raises(PreflowError, match=r"reward_model has weight 1\.0 and there is no reward model"):
        run(inputs, tmp_path / "unscored")


def test_the_choice_of_prompts_does_not_depend_on_the_order_of_the_file(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    run(inputs, tmp_path / "one", num_prompts=5)
    path = inputs["prompts"] / "train.jsonl"
    write_rows(path, list(reversed(list(read_rows(path)))))
    run(inputs, tmp_path / "other", num_prompts=5)
    assert tiny.contents(tmp_path / "one/out") == tiny.contents(tmp_path / "other/out")


def test_says_what_is_wrong_where_no_prompt_is_left(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PreflowError, match=r"0 of 14 prompts are left: 13 have more than 2 tokens.*max_new_tokens=62"):
        run(inputs, tmp_path / "long", Generation(max_new_tokens=62))
    write_rows(inputs["prompts"] / "train.jsonl", [])
    with pytest.raises(PreflowError, match="0 prompts of pool `rl`"):
        run(inputs, tmp_path / "none")
