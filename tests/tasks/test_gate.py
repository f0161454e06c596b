"""The gate on hand-made scores: what is promoted, and that each check alone can refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import PreflowError
from rlhf.records import write_json
from tasks.config.gate import Gate
from tasks.gate import choose, decide, gate
from tasks.journal import Log
from tests.tasks.scores import healthy, interval, trusted

VALID = {"passed": True, "corpus": {"rows": 0, "clean": 0, "set_aside": 0}} | {
    kind: {"rows": 100, "clean": 98, "set_aside": 2} for kind in ("prompts", "eval")
}
Spoil = Callable[[dict[str, Any]], None]


def verdict(scores: dict[str, Any], **knobs: Any) -> dict[str, Any]:
    return decide(Gate(**knobs), scores, trusted(), VALID)


def failed(result: dict[str, Any]) -> list[str]:
    return [check["name"] for check in result["checks"] if not check["passed"]]


def test_a_better_policy_is_promoted_over_sft_where_nobody_serves() -> None:
    result = verdict(healthy())
    assert result["promote"] is True
    assert (result["candidate"], result["against"], result["judge"]) == ("rl", "sft", "gold")
    assert "rl beats sft by +0.170" in result["reason"]
    assert all(set(check) == {"name", "value", "limit", "passed"} for check in result["checks"])


def test_the_candidate_must_beat_the_champion_and_not_only_sft() -> None:
    assert verdict(healthy(champion_gold=0.60))["promote"] is True
    result = verdict(healthy(champion_gold=0.72))  # +0.01 ± 0.02 over the champion, +0.17 over SFT
    assert result["against"] == "champion"
    assert result["promote"] is False
    assert failed(result) == ["gain_over_champion"]
    assert "rl is not promoted" in result["reason"] and "gain_over_champion -0.01" in result["reason"]


def test_the_candidate_is_chosen_on_val_and_never_on_eval() -> None:
    scores = healthy()
    scores["selection"]["policies"]["dpo"] = interval(0.72)
    assert choose(Gate(), scores) == "dpo"
    scores["policies"]["rejection_sampling"]["gold_reward"] = interval(0.99)
    assert choose(Gate(), scores) == "dpo"


def test_equal_selection_scores_have_one_outcome() -> None:
    scores = healthy()
    scores["selection"]["policies"] = {"rl": interval(0.7), "dpo": interval(0.7)}
    assert choose(Gate(), scores) == "dpo"


def test_a_named_candidate_is_taken_and_an_absent_one_refused() -> None:
    assert choose(Gate(candidate="dpo"), healthy()) == "dpo"
    for absent in ("random_control", "round_2"):
        with pytest.raises(PreflowError, match=rf"is {absent}, but the candidates are dpo, rejection_sampling, rl;"):
            choose(Gate(candidate=absent), healthy())


def test_without_any_candidate_the_gate_says_so() -> None:
    scores = healthy()
    scores["selection"]["policies"] = {}
    with pytest.raises(PreflowError, match="at least one with --policies, no control"):
        choose(Gate(), scores)


def _set(*path: str, to: Any) -> Spoil:
    def spoil(scores: dict[str, Any]) -> None:
        inner = scores
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return spoil


GAIN = ("differences", "champion", "rl")


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        ("same_base", _set("champion", "base", to="base-b")),
        ("gain_over_champion", _set(*GAIN, "gold_reward", to=interval(0.02, 0.02))),
        ("held_out_reward_not_down", _set(*GAIN, "held_out_reward", to=interval(-0.01))),
        ("kl", _set("policies", "rl", "kl", to=interval(10.1))),
        ("length_ratio", _set("policies", "rl", "length", to=interval(25.0))),
        ("stop_rate", _set("policies", "rl", "stop_rate", to=interval(0.89))),
        ("nll_increase", _set("differences", "sft", "rl", "nll", to=interval(1.01))),
    ],
)
def test_each_check_refuses_alone(check: str, spoil: Spoil) -> None:
    scores = healthy(champion_gold=0.60)
    spoil(scores)
    result = verdict(scores)
    assert failed(result) == [check]
    assert result["promote"] is False
    assert check in result["reason"]


@pytest.mark.faults(
    26, injected="scores whose reward rises while gold falls", happens="two checks of the gate refuse promotion"
)
def test_reward_up_while_gold_goes_down_is_refused_twice() -> None:
    scores = healthy()
    scores["differences"]["sft"]["rl"]["gold_reward"] = interval(-0.05)
    assert failed(verdict(scores)) == ["gain_over_sft", "gold_reward_not_down"]


def test_a_lower_second_reward_is_no_sign_of_cheating_where_the_first_fell_too() -> None:
    scores = healthy()
    for metric in ("reward", "held_out_reward"):
        scores["differences"]["sft"]["rl"][metric] = interval(-0.3)
    assert failed(verdict(scores)) == []


def test_a_champion_sampled_again_may_have_another_base() -> None:
    scores = healthy(champion_gold=0.60)
    scores["champion"] |= {"base": "base-b", "resampled": True}
    assert verdict(scores)["promote"] is True


def test_without_gold_the_held_out_reward_judges() -> None:
    scores = healthy()
    scores["judge"] = "held_out_rm"
    for row in scores["policies"].values():
        row["gold_reward"] = None
    for rows in scores["differences"].values():
        for row in rows.values():
            row["gold_reward"] = None
    result = verdict(scores)
    assert result["promote"] is True
    assert "gold_reward_not_down" not in {check["name"] for check in result["checks"]}
    scores["differences"]["sft"]["rl"]["held_out_reward"] = interval(0.01)
    assert failed(verdict(scores)) == ["gain_over_sft"]


@pytest.mark.parametrize(
    ("check", "reward_metrics", "validation"),
    [
        ("reward_model", {"trusted": False, "reasons": ["accuracy 0.52 is too low"]}, VALID),
        ("quarantine_share", trusted(), VALID | {"eval": {"rows": 100, "clean": 96, "set_aside": 4}}),
    ],
)
def test_untrusted_scorers_or_data_refuse(check: str, reward_metrics: Any, validation: Any) -> None:
    result = decide(Gate(), healthy(), reward_metrics, validation)
    assert failed(result) == [check]
    assert all(reason in result["reason"] for reason in reward_metrics["reasons"])


def test_a_run_without_reward_models_is_judged_by_gold_alone() -> None:
    scores = healthy()
    scores["scorers"] = {"policy_rm": None, "held_out_rm": None}
    for row in [*scores["policies"].values(), *scores["differences"]["sft"].values()]:
        row["reward"] = row["held_out_reward"] = None
    result = decide(Gate(), scores, None, VALID)
    assert result["promote"] is True
    trust = next(check for check in result["checks"] if check["name"] == "reward_model")
    assert trust["value"] == "no reward model in this graph" and trust["passed"]
    assert "held_out_reward_not_down" not in {check["name"] for check in result["checks"]}


def test_scorers_without_their_metrics_are_not_trusted() -> None:
    assert failed(decide(Gate(), healthy(), None, VALID)) == ["reward_model"]


def test_where_nobody_knows_the_optimised_reward_a_fall_of_the_held_out_one_counts() -> None:
    scores = healthy()
    scores["differences"]["sft"]["rl"] |= {"reward": None, "held_out_reward": interval(-0.1)}
    assert failed(verdict(scores)) == ["held_out_reward_not_down"]


def test_limits_are_knobs() -> None:
    assert failed(verdict(healthy(), max_kl=2.0)) == ["kl"]
    assert failed(verdict(healthy(), max_quarantine_share=0.01)) == ["quarantine_share"]
    assert failed(verdict(healthy(), min_gain=0.2)) == ["gain_over_sft"]


def test_the_stage_writes_the_verdict_and_the_same_bytes_again(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.json" for name in ("scores", "reward_metrics", "validation")}
    for path, value in zip(paths.values(), (healthy(), trusted(), VALID), strict=True):
        write_json(path, value)
    for out in ("one", "two"):
        gate(Gate(), **paths, out=tmp_path / out, log=Log.null())
    written = [(tmp_path / out / "gate.json").read_bytes() for out in ("one", "two")]
    assert written[0] == written[1]
    assert json.loads(written[0])["promote"] is True
