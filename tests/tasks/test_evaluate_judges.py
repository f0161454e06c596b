"""Who judges an evaluation: gold, else the held-out reward model, else rules, else nobody can."""

import json
import math
from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from rlhf.records import read_rows
from tasks.config import ConfigError
from tasks.config.evaluate import Evaluate
from tasks.config.gate import Gate
from tasks.config.rewards import Rewards
from tasks.gate import decide
from tasks.journal import Log
from tests.tasks.small_evaluation import CONFIG, META, make_prompts, make_world, run


def test_without_gold_it_is_null_and_the_held_out_reward_judges(tmp_path: Path) -> None:
    scores = run(make_world(tmp_path, {}), tmp_path / "out")
    assert scores["judge"] == scores["selection"]["judge"] == "held_out_rm"
    assert all(row["gold_reward"] is None for row in scores["policies"].values())
    assert scores["policies"]["rl"]["win_rate_vs_sft"] is not None


def test_a_run_without_reward_models_is_scored_by_gold(tmp_path: Path) -> None:
    bare = {name: path for name, path in make_world(tmp_path, META).items() if not name.endswith("_rm")}
    log = Log(tmp_path / "journal", "evaluate")
    scores = run(bare, tmp_path / "out", log=log)
    assert scores["scorers"] == {"policy_rm": None, "held_out_rm": None}
    assert scores["policies"]["rl"]["reward"] is None and scores["differences"]["sft"]["rl"]["held_out_reward"] is None
    assert scores["policies"]["rl"]["gold_reward"] is not None and scores["reward_on_sft"] == {}
    assert json.loads((tmp_path / "out" / "curves.json").read_text())["best_of_n"] == []
    assert {path.name for path in (tmp_path / "journal" / "files").iterdir()} == {
        "samples.json", "policies.png", "reward_against_kl.png",
    }  # fmt: skip
    unknown = make_prompts(tmp_path / "unknown", "eval", {})
    with pytest.raises(PreflowError, match="nobody can judge answers to these 6 prompts"):
        run({**bare, "eval_prompts": unknown}, tmp_path / "refused")


def ruled(weight: float) -> Evaluate:
    """−weight for each token beyond three."""
    return CONFIG.model_copy(update={"rewards": Rewards(reward_model=0.0, length=weight, length_budget=3)})


def test_rules_judge_where_nobody_else_can(tmp_path: Path) -> None:
    """No gold, no reward model, no demonstrations: the rules' own figures, and fluency in place of forgetting."""
    given = make_world(tmp_path, {"answer": "red"})
    for name in ("policy_rm", "held_out_rm", "demonstrations"):
        del given[name]
    with pytest.raises(PreflowError, match=r"nobody can judge .*name the rules that answers are held to"):
        run(given, tmp_path / "out")
    scores = run(given, tmp_path / "out", ruled(0.5), shared=tmp_path / "kept")
    assert scores["judge"] == "rules"
    seen = set()
    for name, policy in scores["policies"].items():
        answers = [one for row in read_rows(tmp_path / f"out/completions/{name}.jsonl") for one in row["completions"]]
        expected = [-0.5 * max(0, len(one["ids"]) - 3) for one in answers]
        assert [one["rule_reward"] for one in answers] == expected
        assert policy["rule_reward"]["mean"] == pytest.approx(sum(expected) / len(expected))
        seen |= set(expected)
    assert len(seen) > 1
    row, sft = scores["policies"]["rl"], scores["policies"]["sft"]
    assert set(scores["selection"]["policies"]) == {"rejection_sampling", "rl", "dpo"}
    # Fluency: −log π_sft a token. Of SFT's own answers that is their log-probability as they were drawn.
    own = [one for line in read_rows(tmp_path / "out/completions/sft.jsonl") for one in line["completions"]]
    nll = -math.fsum(one["logprob"] / len(one["ids"]) for one in own) / len(own)
    assert sft["answer_nll"]["mean"] == pytest.approx(nll, abs=1e-4)
    assert row["nll"] is None
    verdict = decide(Gate(), scores, None, {})
    checks = {check["name"]: check["value"] for check in verdict["checks"]}
    assert "nll_increase" not in checks
    assert checks["answer_nll_increase"] == scores["differences"]["sft"][verdict["candidate"]]["answer_nll"]["mean"]
    # What is kept from an earlier run must not answer for other rules.
    again = run(given, tmp_path / "again", ruled(1.5), shared=tmp_path / "kept")
    assert again["policies"]["rl"]["rule_reward"]["mean"] == pytest.approx(3 * row["rule_reward"]["mean"])


def test_rules_stand_beside_reward_models_which_judge_first(tmp_path: Path) -> None:
    scores = run(make_world(tmp_path, {"answer": "red"}), tmp_path / "out", ruled(0.5))
    assert scores["judge"] == "held_out_rm"
    assert scores["policies"]["rl"]["rule_reward"] and scores["policies"]["rl"]["nll"]
    curve = json.loads((tmp_path / "out/curves.json").read_text("utf-8"))["best_of_n"]
    assert all(point["rule_reward"]["mean"] <= 0 for point in curve)


def test_a_model_is_no_rule() -> None:
    with pytest.raises(ConfigError, match="rewards has weights 1 of the reward model and 0 of the judge, expected 0"):
        Evaluate.parse({"rewards": {"verifier": 1.0}}, "evaluate")
