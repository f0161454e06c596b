"""The whole story, shortened: thirteen real stages through the front door, in a checkout of its own.

Sizes are cut until it fits a test, so it asserts that learning happens, not how much: figures are in EXPERIMENTS.md.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.costs import KINDS
from tasks.graph import load_graph
from tests.checkout import copy_tree

REPO = Path(__file__).parents[1]
SHORT: dict[str, Any] = {
    "collect.world.num_documents": 16_000,
    "collect.world.num_demonstrations": 1000,
    "collect.world.num_offline_pairs": 200,
    "collect.world.num_prompts": 2600,
    "annotate.num_prompts": 700,
    "sample.num_prompts": 200,
    "rl.num_updates": 12,
    "rl.num_val_prompts": 30,
    "rl.val_every": 4,
    "dpo.max_pairs": 640,
    "evaluate.num_prompts": 100,
    "evaluate.samples_per_prompt": 2,
    "reward_model.min_accuracy": 0.5,
    "reward_model.max_calibration_error": 0.5,
    "reward_model.max_length_correlation": 1.0,
    "reward_model.min_length_bin_accuracy": 0.0,
}
STAGES = list(load_graph(REPO).stages)
TRAINED = ("base", "sft", "reward_model", "rejection_sampling", "dpo", "rl")


def sh(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def typed(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`preflow …` of the code in `root`, with these environment variables besides."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=root, text=True, capture_output=True, env=environ() | variables, check=False)


def preflow(root: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """`preflow run --json …` of the code in `root`; what it printed on stdout, which must be one JSON object alone."""
    done = typed(root, "run", "--json", *arguments)
    assert done.returncode == code, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found | {"stderr": done.stderr}


def environ() -> dict[str, str]:
    own = ("PREFECT_API_URL", "PREFLOW_HOME", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in own}


def states(report: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in report["stages"]}


def copied(root: Path, settings: dict[str, Any]) -> Path:
    """The tree under test as a repository of its own, with one commit and these params."""
    root.mkdir()
    copy_tree(root)
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    for key, value in settings.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        assert last in section, key
        section[last] = value
    yaml.dump(params, root / "params.yaml")
    sh(root, "git", "init", "-q")
    sh(root, "git", "add", "-A")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    sh(root, "git", *identity, "commit", "-qm", "short")
    return root


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = copied(tmp_path_factory.mktemp("end to end") / "check out", SHORT)  # a space in the path must not matter
    yield root
    subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=root, env=environ(), check=False)


@pytest.fixture(scope="module")
def first(checkout: Path) -> dict[str, Any]:
    return preflow(checkout)


@pytest.mark.e2e
def test_every_stage_ran_and_left_only_the_lock(checkout: Path, first: dict[str, Any]) -> None:
    assert states(first) == dict.fromkeys(STAGES, "ran")
    assert sh(checkout, "git", "status", "--porcelain").split() == ["??", "dvc.lock"]
    assert list(load_graph(checkout).stages) == [
        line.strip(" :\n") for line in (checkout / "dvc.lock").open() if line.startswith("  ") and line[2] != " "
    ]


@pytest.mark.e2e
def test_it_learns(checkout: Path, first: dict[str, Any]) -> None:
    scores = json.loads((checkout / "data/12_evaluation/scores.json").read_text())
    policies = scores["policies"]
    assert policies["sft"]["nll"]["mean"] < policies["base"]["nll"]["mean"]
    assert policies["sft"]["gold_reward"]["mean"] > policies["base"]["gold_reward"]["mean"]
    assert policies["rl"]["reward"]["ci_low"] > policies["sft"]["reward"]["mean"]
    # What is optimised rises for sure; how far gold comes along at this size hangs on how a processor rounds.
    assert policies["rl"]["gold_reward"]["ci_high"] > policies["sft"]["gold_reward"]["mean"]
    assert policies["rejection_sampling"]["reward"]["mean"] > policies["random_control"]["reward"]["mean"]
    reward_model = json.loads((checkout / "data/07_reward_model/metrics.json").read_text())["policy_rm"]
    assert reward_model["accuracy"]["ci_low"] > 0.5
    assert reward_model["accuracy"]["mean"] < reward_model["ceiling"] + 0.05


@pytest.mark.e2e
def test_files_for_programs(checkout: Path, first: dict[str, Any]) -> None:
    scores = json.loads((checkout / "data/12_evaluation/scores.json").read_text())
    assert scores["judge"] == "gold"
    assert set(scores["policies"]) == {"base", "sft", "rejection_sampling", "random_control", "rl", "dpo"}
    for measured in scores["policies"].values():
        for name in ("gold_reward", "reward", "win_rate_vs_sft", "kl", "length", "stop_rate"):
            assert measured[name]["ci_low"] <= measured[name]["mean"] <= measured[name]["ci_high"], name
    assert scores["policies"]["sft"]["win_rate_vs_sft"]["mean"] == 0.5
    gate = json.loads((checkout / "data/13_gate/gate.json").read_text())
    assert gate == first["gate"]
    assert gate["promote"] == all(check["passed"] for check in gate["checks"])
    assert gate["candidate"] in ("rejection_sampling", "rl", "dpo")
    assert first["promotion"]["promoted"] is gate["promote"]
    assert set(first["mlflow"]["stages"]) == set(STAGES)
    assert set(first["costs"]) == set(STAGES)
    for name, cost in first["costs"].items():
        assert sum(cost[f"seconds_{kind}"] for kind in KINDS) == pytest.approx(cost["seconds"]), name
        assert bool(cost["tokens_trained"]) == (name in TRAINED), name
        assert not cost["flops"] or cost["matmul_share"] > 0, name


@pytest.mark.e2e
def test_again_nothing_runs_and_lineage_is_whole(checkout: Path, first: dict[str, Any]) -> None:
    lock = (checkout / "dvc.lock").read_bytes()
    again = preflow(checkout)
    assert states(again) == dict.fromkeys(STAGES, "cached")
    assert (checkout / "dvc.lock").read_bytes() == lock
    script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlruns/mlflow.db")
found = {}
for stage, run in json.loads(sys.argv[1]).items():
    one = client.get_run(run)
    found[stage] = [one.data.tags.get("cached"), len(one.inputs.dataset_inputs), len(one.inputs.model_inputs),
                    len(one.outputs.model_outputs)]
print(json.dumps(found))
"""
    listed = sh(checkout, sys.executable, "-c", script, json.dumps(again["mlflow"]["stages"]))
    found = json.loads(listed.splitlines()[-1])
    assert all(cached == "true" for cached, *_ in found.values())
    assert found["rl"][2] == 4  # the policy it starts from, its reference, two reward models
    assert found["rl"][3] == 1
    assert found["evaluate"][2] == 8
    assert sh(checkout, str(Path(sys.executable).with_name("dvc")), "status").strip().endswith("up to date.")


@pytest.mark.e2e
def test_one_setting_runs_what_depends_on_it_elsewhere(checkout: Path, first: dict[str, Any]) -> None:
    before = (sh(checkout, "git", "status", "--porcelain"), (checkout / "dvc.lock").read_bytes())
    other = preflow(checkout, "--set", "rl.kl_coef=0.05")
    ran = [name for name, state in states(other).items() if state == "ran"]
    assert ran == ["rl", "evaluate", "gate"]
    assert (sh(checkout, "git", "status", "--porcelain"), (checkout / "dvc.lock").read_bytes()) == before
    kept = sh(checkout, "git", "show", f"{other['ref']}:params.yaml")
    assert YAML(typ="safe").load(kept)["rl"]["kl_coef"] == 0.05
    assert "dvc.lock" in sh(checkout, "git", "ls-tree", "--name-only", other["ref"])


@pytest.mark.e2e
@pytest.mark.slow
def test_a_new_preference_shard_runs_neither_base_nor_sft(checkout: Path, first: dict[str, Any]) -> None:
    shard = checkout / "data/inbox/preferences/new.jsonl"
    shard.parent.mkdir()
    secret = {"prompt": "name two birds", "chosen": "key AKIA" + "A" * 16, "rejected": "crow"}
    shard.write_text(json.dumps({"prompt": "x", "chosen": "y", "rejected": "z"}) + "\n" + json.dumps(secret) + "\n")
    try:
        refused = preflow(checkout, code=3)
        found = states(refused)
        assert [found[name] for name in ("collect", "prepare", "validate")] == ["ran", "ran", "failed"]
        assert all(state in ("skipped", "cached") for name, state in found.items() if name not in STAGES[:3])
        assert "preferences/new.jsonl:2" in refused["stderr"]
        assert "AKIA" not in refused["stderr"]
        assert (Path(refused["validation"]) / "report.html").is_file()

        shard.write_text(json.dumps({"prompt": "x", "chosen": "y", "rejected": "z"}) + "\n")
        report = preflow(checkout)
        runs = states(report)
        assert (runs["validate"], runs["base"], runs["sft"]) == ("ran", "cached", "cached")
    finally:
        shard.unlink()


@pytest.mark.e2e
@pytest.mark.slow
def test_a_profile_with_its_own_graph_goes_on_from_the_plain_run(checkout: Path, first: dict[str, Any]) -> None:
    profile = ("--profile", "rlvr-only", "--set", "rl.num_updates=4")
    report = preflow(checkout, *profile)
    expected = dict.fromkeys(STAGES[:5], "cached") | dict.fromkeys(("rl", "evaluate", "gate"), "ran")
    assert states(report) == expected
    trust = next(check for check in report["gate"]["checks"] if check["name"] == "reward_model")
    assert (trust["value"], trust["passed"]) == ("no reward model in this graph", True)
    assert report["gate"]["candidate"] == "rl"
    assert states(preflow(checkout, *profile)) == dict.fromkeys(expected, "cached")
