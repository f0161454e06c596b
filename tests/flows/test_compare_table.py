"""What a comparison reports, from results made by hand."""

import io
from typing import Any

import pytest
from rich.console import Console

from flows.compare import rows as compare_rows
from flows.compare.figures import frontier, scores
from flows.compare.grid import Asked, Cell
from flows.compare.table import markdown, show, summary
from rlhf.statistics import crossed_resamples

PROMPTS = [f"q{n}" for n in range(6)]
BASE = [0.1, 0.9, 0.3, 0.7, 0.5, 0.5]
LEASH = "rl.kl_coef"


def cell(algorithm: str, seed: int, *varied: str, shared: tuple[str, ...] = ()) -> Cell:
    policies = {"base": shared, "sft": shared, "random_control": shared, "rejection_sampling": shared, "rl": varied}
    return Cell(algorithm, seed, varied, (), "rl", "rl", policies, "graph", {"rl": f"{algorithm}{seed}{varied}"})


def result(seed: int, gain: float, sft: float = 0.0, seconds: float | None = 60.0) -> dict[str, Any]:
    """SFT's answers are worth BASE, moved by 0.1 a seed; the others gain the same on every prompt."""
    gains = {"base": -0.2, "sft": 0.0, "random_control": 0.01, "rejection_sampling": 0.1, "rl": gain}
    values = {name: [value + more + sft + 0.1 * seed for value in BASE] for name, more in gains.items()}
    policies = {
        name: {
            "gold_reward": {"mean": sum(golds) / 6},
            "reward": {"mean": 2.0}, "held_out_reward": None, "kl": {"mean": 10 * abs(gains[name])},
            "length": {"mean": 12.0}, "stop_rate": {"mean": 1.0},
        }
        for name, golds in values.items()
    }  # fmt: skip
    return {
        "cell": {"run": f"run{seed}", "ref": f"refs/preflow/runs/run{seed}", "seconds": seconds},
        "scores": {"judge": "gold", "policies": policies},
        "curves": {"best_of_n": [{"n": 2, "kl_bound": 0.2, "gold_reward": {"mean": 0.6}, "reward": {"mean": 1.0}}]},
        "trajectory": {},
        "metrics": {"val": [{"update": 0, "kl": 0.1, "reward": 0.2, "held_out_reward": None}]},
        "values": {"ids": PROMPTS, "policies": {name: {"gold_reward": golds} for name, golds in values.items()}},
    }


CELLS = [cell("ppo", 0), cell("ppo", 1), cell("grpo", 0), cell("grpo", 1)]
GAINS = {"ppo": 0.3, "grpo": 0.25}


def found(cells: list[Cell] = CELLS, without: tuple[int, ...] = (), failed: dict[str, str] | None = None) -> Any:
    kept = [one for number, one in enumerate(cells) if number not in without]
    results = {one.key: result(one.seed, GAINS[one.algorithm]) for one in kept}
    return summary(Asked(("ppo", "grpo"), seeds=(0, 1)), cells, results, failed or {})


def printed(told: Any) -> str:
    out = io.StringIO()
    show(told, Console(file=out, width=160, no_color=True))
    return out.getvalue()


def exactly(interval: dict[str, float], value: float) -> bool:
    return list(interval.values()) == pytest.approx([value] * 3, abs=1e-9)


def test_each_is_set_against_the_sft_of_its_own_seed() -> None:
    """Seeds are 0.1 apart, prompts up to 0.8; paired, nothing of that is left."""
    rows = {row["name"]: row for row in found()["rows"]}
    assert list(rows) == ["base", "sft", "random_control", "rejection_sampling", "ppo", "grpo"]
    assert exactly(rows["ppo"]["gain"], 0.3) and exactly(rows["grpo"]["gain"], 0.25)
    assert rows["sft"]["gain"] is None
    assert rows["ppo"]["by_seed"] == {"0": pytest.approx(0.8), "1": pytest.approx(0.9)}
    assert rows["ppo"]["score"]["mean"] == pytest.approx(0.85)
    assert rows["ppo"]["score"]["ci_high"] - rows["ppo"]["score"]["ci_low"] > 0.1
    assert (rows["ppo"]["kl"], rows["ppo"]["held_out_reward"], rows["ppo"]["seconds"]) == (pytest.approx(3), None, 60)
    assert rows["rejection_sampling"]["seconds"] is None


def test_pairs_and_controls() -> None:
    assert [(pair["a"], pair["b"]) for pair in found()["differences"]] == [("ppo", "grpo")]
    assert exactly(found()["differences"][0]["difference"], 0.05)
    controls = {(pair["a"], pair["b"]): pair["difference"] for pair in found()["controls"]}
    assert exactly(controls["rejection_sampling", "random_control"], 0.09)
    assert exactly(controls["random_control", "sft"], 0.01)


def test_only_seeds_that_both_have_are_paired_and_a_failure_is_told() -> None:
    told = found(without=(3,), failed={CELLS[3].key: "rl: not finite"})
    assert told["differences"][0]["seeds"] == [0]
    assert exactly(told["differences"][0]["difference"], 0.05)
    assert [cell["state"] for cell in told["cells"]] == ["done", "done", "done", "failed"]
    text = markdown(told)
    assert "* grpo seed 1: failed: rl: not finite" in text
    assert "| grpo (1 of 2 seeds) | 0.750 | 0.75 – | +0.250 [+0.250, +0.250] |" in text


def test_settings_of_what_is_shared_give_each_variant_its_own_start() -> None:
    one, two = ("sft.lr=1",), ("sft.lr=2",)
    cells = [cell("ppo", 0, *one, shared=one), cell("ppo", 0, *two, shared=two)]
    results = {cells[0].key: result(0, 0.3), cells[1].key: result(0, 0.3, sft=0.2)}
    told = summary(Asked(("ppo",)), cells, results, {})
    rows = {row["name"]: row for row in told["rows"]}
    assert rows["sft sft.lr=2"]["score"]["mean"] == pytest.approx(0.7)
    assert exactly(rows["ppo sft.lr=2"]["gain"], 0.3)
    assert exactly(told["differences"][0]["difference"], -0.2)
    assert len(told["controls"]) == 4
    # A leash is nothing to SFT: both have the same one.
    cells = [cell("ppo", 0, f"{LEASH}=1"), cell("ppo", 0, f"{LEASH}=2")]
    told = summary(Asked(("ppo",)), cells, {one.key: result(0, 0.3) for one in cells}, {})
    names = [row["name"] for row in told["rows"]]
    assert names == ["base", "sft", "random_control", "rejection_sampling", f"ppo {LEASH}=1", f"ppo {LEASH}=2"]


def test_other_prompts_leave_the_common_ones_and_none_leaves_no_interval() -> None:
    results = {one.key: result(one.seed, GAINS[one.algorithm]) for one in CELLS}
    results[CELLS[1].key]["values"]["ids"] = ["q2", "q3", "x", "y", "z", "q0"]
    assert summary(Asked(("ppo",)), CELLS, results, {})["prompts"] == 3
    results[CELLS[1].key]["values"]["ids"] = list("uvwxyz")
    told = summary(Asked(("ppo",)), CELLS, results, {})
    assert told["rows"][-1]["gain"] is None
    assert markdown(told)


def test_nothing_done_is_told_too() -> None:
    told = found(without=(0, 1, 2, 3), failed=dict.fromkeys((one.key for one in CELLS), "no disk"))
    assert told["rows"] == []
    assert markdown(told).count("failed: no disk") == 4
    assert "|" not in markdown(told)
    assert "policy" not in printed(told)


def test_the_terminal_gets_all_of_it_in_plain_lines() -> None:
    lines = {" ".join(line.split()) for line in printed(found()).splitlines()}
    assert "ppo 0.850 0.80 0.90 +0.300 [+0.300, +0.300] 3.00 12.0 1.00 2.00 – 60" in lines
    assert "rejection_sampling − random_control +0.090 [+0.090, +0.090]" in lines
    assert "ppo − grpo +0.050 [+0.050, +0.050]" in lines


def test_pictures_show_every_row_and_only_rewards_that_are_known() -> None:
    results = {one.key: result(one.seed, GAINS[one.algorithm]) for one in CELLS}
    figure = scores(found())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][::-1] == [
        *("base", "sft", "random_control", "rejection_sampling", "ppo", "grpo")
    ]
    figure = frontier(found(), CELLS, results)
    assert [axes.get_title() for axes in figure.axes] == ["gold", "reward"]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["ppo", "grpo"]
    assert frontier(found(without=(0, 1, 2, 3)), CELLS, {}).axes == []


def test_a_gain_is_over_the_sft_of_its_own_evaluation() -> None:
    """Two reward models judge the same SFT policy 1.0 apart; each method gained 0.3 by its own judge."""
    cells = [cell("ppo", 0, f"reward_model.epochs={n}", shared=()) for n in (1, 2)]
    results = {cells[0].key: result(0, 0.3), cells[1].key: result(0, 0.3, sft=1.0)}
    for number, one in enumerate(results.values()):
        one["scores"] |= {"judge": "held_out_rm", "scorers": {"policy_rm": "p", "held_out_rm": f"rm{number}"}}
        for policy in one["values"]["policies"].values():
            policy["held_out_reward"] = policy.pop("gold_reward")
    told = summary(Asked(("ppo",)), cells, results, {})
    gains = {row["name"]: row["gain"] for row in told["rows"]}
    assert exactly(gains["ppo reward_model.epochs=1"], 0.3) and exactly(gains["ppo reward_model.epochs=2"], 0.3)
    assert told["differences"][0]["difference"] is None
    for text in (markdown(told), printed(told)):
        assert "epochs=1 − ppo" not in text
        assert text.count("1 pairs have no difference here") == 1
    # Gold is the same judge whichever reward model was trained, as long as the questions are the same.
    for one in results.values():
        one["scores"] |= {"judge": "gold", "evaluation_set": {"digest": "same"}}
        for policy in one["values"]["policies"].values():
            policy["gold_reward"] = policy.pop("held_out_reward")
    assert exactly(summary(Asked(("ppo",)), cells, results, {})["differences"][0]["difference"], -1.0)
    results[cells[1].key]["scores"]["evaluation_set"] = {"digest": "other"}
    assert summary(Asked(("ppo",)), cells, results, {})["differences"][0]["difference"] is None


def test_controls_are_those_of_the_same_evaluation() -> None:
    one, two = ("with ppo",), ("with grpo",)
    cells = [cell("ppo", 0, shared=one), cell("grpo", 0, shared=two)]
    results = {cells[0].key: result(0, 0.3), cells[1].key: result(0, 0.3, sft=1.0)}
    told = summary(Asked(("ppo", "grpo")), cells, results, {})["controls"]
    assert {(pair["a"], pair["b"]) for pair in told} == {
        (f"{a} with {name}", f"{b} with {name}")
        for a, b in (("rejection_sampling", "random_control"), ("random_control", "sft"))
        for name in ("ppo", "grpo")
    }
    assert all(exactly(pair["difference"], 0.09 if pair["a"].startswith("rej") else 0.01) for pair in told)


def test_names_are_text_and_are_never_cut() -> None:
    setting = "evaluate.differences=[rl - dpo]"
    long = f"a.key={'z' * 150}"
    cells = [cell("ppo", 0, setting), cell("ppo", 0, long), cell("ppo", 0, "a.b=x|y")]
    told = summary(Asked(("ppo",)), cells, {one.key: result(0, 0.3) for one in cells}, {})
    text = printed(told)
    assert f"ppo {setting}" in text
    assert "…" not in text
    assert text.count("z") == 3 * 150  # its row and two pairs
    assert "a.b=x\\|y" in markdown(told)
    assert text.count("none is adjusted for their number: of 3 differences") == 1


def test_one_pair_needs_no_adjusting() -> None:
    assert "adjusted" not in markdown(found())


def test_many_rows_share_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(values: Any, seed: int) -> Any:
        calls.append(len(values))
        return crossed_resamples(values, seed)

    monkeypatch.setattr(compare_rows, "crossed_resamples", counted)
    cells = [cell(f"a{n}", seed) for n in range(12) for seed in (0, 1)]
    results = {one.key: result(one.seed, 0.1) for one in cells}
    assert len(summary(Asked(("a0",)), cells, results, {})["differences"]) == 66
    assert len(calls) == 1
