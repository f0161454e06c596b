"""The over-optimisation report: what it says of looks whose worth is known, its picture, and its profile's graph."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from rlhf.errors import PreflowError
from rlhf.models import save_policy
from rlhf.records import write_json, write_rows
from tasks import overoptimisation_figures as figures
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.config.trajectory import Trajectory
from tasks.journal import Log
from tasks.trajectory import _verdict, trajectory
from tests.tasks import tiny

ROOT = Path(__file__).parents[2]
CONFIG = Trajectory(num_prompts=6, best_of_n=[1, 2, 4], best_of_n_prompts=4)
EVALUATE = Evaluate(samples_per_prompt=2, bootstrap_samples=100)
KNOWN = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "beach"}}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """SFT; a run whose first look is SFT itself and whose second, the kept one, is another policy."""
    tiny.save_models(tmp_path)
    save_policy(tiny.policy(5), tmp_path / "run/looks/0005")
    shutil.copytree(tmp_path / "policy", tmp_path / "run/looks/0000")
    write_json(tmp_path / "run/metrics.json", {"kept": 5, "stopped_early": None})
    write_rows(tmp_path / "eval/eval.jsonl", [question(number, KNOWN) for number in range(8)])
    names = {"sft": "policy", "looks": "run/looks", "rl_metrics": "run/metrics.json", "eval_prompts": "eval/eval.jsonl"}
    given = {name: tmp_path / path for name, path in names.items()}
    return given | {name: tmp_path / name for name in ("policy_rm", "held_out_rm")}


def question(number: int, meta: dict[str, Any]) -> dict[str, Any]:
    return {"id": str(number), "messages": [{"role": "user", "content": tiny.WORDS[number]}], "meta": meta}


def run(inputs: dict[str, Path], folder: Path) -> dict[str, Any]:
    """The stage, with the SFT policy as one of the others."""
    folder.mkdir()
    shared = folder.parent / "shared"
    shared.mkdir(exist_ok=True)
    trajectory(
        CONFIG, evaluate=EVALUATE, generation=Generation(max_new_tokens=6), seed=0, policies={"again": inputs["sft"]},
        out=folder, shared=shared, log=Log.null(), **inputs,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "trajectory.json").read_text(encoding="utf-8"))
    return found


def test_looks_and_policies_are_measured_alike(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = run(inputs, tmp_path / "out")
    first, second = found["looks"]
    assert (first["update"], second["update"], found["prompts"]) == (0, 5, 6)
    assert {name: value for name, value in first.items() if name != "update"} == found["policies"]["again"]
    assert abs(first["kl"]["mean"]) < 1e-5 < second["kl"]["mean"]
    assert second["sqrt_kl"] ** 2 == pytest.approx(second["kl"]["mean"])
    curve = found["best_of_n"]
    proxies = [point["reward"]["mean"] for point in curve]
    assert [point["n"] for point in curve] == [1, 2, 4] and proxies == sorted(proxies) and proxies[0] < proxies[2]
    assert all(point["held_out_reward"] and point["gold_reward"] for point in curve)
    assert found["verdict"]["kept"] == found["verdict"]["last"] == 5


def test_a_second_run_says_the_same_from_what_is_kept(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = run(inputs, tmp_path / "once")
    monkeypatch.setattr("tasks.measurements.answer", None)
    assert run(inputs, tmp_path / "again") == once


def test_without_gold_there_is_no_verdict(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_rows(inputs["eval_prompts"], [question(number, {}) for number in range(8)])
    found = run(inputs, tmp_path / "out")
    assert found["verdict"] is None
    assert found["looks"][0]["gold_reward"] is None and found["looks"][0]["reward"] is not None


def test_without_a_run_the_other_policies_are_measured(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = run({name: path for name, path in inputs.items() if name not in ("looks", "rl_metrics")}, tmp_path / "out")
    assert (found["looks"], found["verdict"], list(found["policies"])) == ([], None, ["again"])


def test_a_run_that_kept_no_looks_is_told_the_knob(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreflowError, match=r"holds 0 policies.*rl\.keep_looks"):
        run(inputs | {"looks": tmp_path / "empty"}, tmp_path / "out")


def test_the_verdict_sets_kept_and_last_beside_the_best_of_gold(tmp_path: Path) -> None:
    def look(gold: list[float], reward: float) -> dict[str, Any]:
        flat = np.full((2, 1), reward)
        return {"gold_reward": np.array(gold)[:, None], "reward": flat, "held_out_reward": flat, "kl": flat}

    looks = {"0000": look([0.5, 0.5], 0.0), "0010": look([0.9, 0.7], 1.0), "0020": look([0.8, 0.72], 2.0)}
    looks["0030"] = look([0.1, 0.3], 3.0)
    write_json(tmp_path / "metrics.json", {"kept": 20, "stopped_early": 30})
    verdict = _verdict(tmp_path / "metrics.json", looks, seed=0, samples=100)
    assert verdict is not None
    assert (verdict["kept"], verdict["highest_gold"], verdict["last"], verdict["stopped_early"]) == (20, 10, 30, 30)
    assert verdict["gold_share"] == pytest.approx(0.76 / 0.8)
    assert verdict["kept_minus_highest"]["mean"] == pytest.approx(-0.04)
    assert verdict["last_minus_highest"]["gold_reward"]["mean"] == pytest.approx(-0.6)
    assert verdict["last_minus_highest"]["reward"]["mean"] == pytest.approx(2.0)


def test_the_picture_has_every_run_and_a_ring_at_the_kept_look(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = run(inputs, tmp_path / "out")
    drawn = figures.picture([("leash off", found), ("leash off", found), ("leash on", found)])
    assert [axes.get_title() for axes in drawn.axes] == list(figures.PANELS.values())
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["best of n (bound)", "leash off", "leash on", "again"]
    rings = [line for line in drawn.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert {(ring.get_xdata()[0], ring.get_ydata()[0]) for ring in rings} == {
        (found["looks"][1]["sqrt_kl"], found["looks"][1]["reward"]["mean"])
    }


@pytest.mark.parametrize("text", [None, "{", '{"gold": 1}'])
def test_a_file_that_is_no_trajectory_ends_in_one_sentence(tmp_path: Path, text: str | None) -> None:
    other = tmp_path / "scores.json"
    if text is not None:
        other.write_text(text)
    with pytest.raises(SystemExit, match=r"scores\.json: (cannot be read|is no trajectory\.json)"):
        figures.main([str(tmp_path / "picture.png"), f"run={other}"])
    assert not (tmp_path / "picture.png").exists()


def test_the_profile_is_the_default_graph_and_the_report() -> None:
    def stages(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"]
        return found

    default, profile = stages(ROOT / "dvc.yaml"), stages(ROOT / "profiles/over-optimisation/dvc.yaml")
    del profile["trajectory"]
    profile["rl"]["outs"].remove("data/10_rl/looks")
    started = "data/09_rejection_sampling/policy"  # by default; here rl starts from sft, at the left end of the picture
    default["rl"]["deps"].remove(started)
    default["rl"]["cmd"] = default["rl"]["cmd"].replace(started, "data/05_sft/policy")
    assert profile == default
