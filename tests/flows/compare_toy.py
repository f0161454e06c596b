"""A toy project for comparisons: the shape of the real graph and the names of its settings, in stages of a few lines.

A policy is a number, how good it is; `evaluate` asks each of them the same 24 questions.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.flows.toy import REPO, git

STAGE = """
import hashlib, json, os, re, sys, time
from pathlib import Path
from ruamel.yaml import YAML

GAINS = {"ppo": 0.3, "grpo": 0.25, "rloo": 0.28, "dpo": 0.1, "ipo": 0.05}


def noise(*words):
    return int(hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()[:8], 16) / 2**32 - 0.5


def read(path):
    return json.loads(Path(path, "policy.json").read_text())["quality"]


def write(path, value, name="policy.json"):
    Path(path).mkdir(parents=True, exist_ok=True)
    Path(path, name).write_text(json.dumps(value, indent=1))


def main(stage):
    params = YAML(typ="safe").load(Path("params.yaml").read_text())
    seed, algorithm = params["seed"], params.get(stage, {}).get("algorithm", "")
    with open(os.environ["TOY_LOG"], "a") as file:
        file.write(f"{stage} {algorithm} {seed if stage != 'collect' else ''}\\n")
    if os.environ.get("TOY_FAIL") == f"{stage} {algorithm} {seed}":
        sys.exit("the gradients are not finite")
    if os.environ.get("TOY_HANG") == f"{stage} {algorithm} {seed}":
        Path(os.environ["TOY_LOG"] + ".hung").write_text(str(os.getpid()))
        time.sleep(600)
    if stage == "collect":
        write("data/01_raw/eval", [{"id": f"q{n}"} for n in range(24)], "eval.json")
    if stage == "sft":
        write("data/05_sft/policy", {"quality": 0.5 + 0.02 * noise("sft", seed)})
    if stage == "rejection_sampling":
        for name, gain in (("policy", 0.1), ("random_control", 0.01)):
            write(f"data/09_rs/{name}", {"quality": read("data/05_sft/policy") + gain})
    if algorithm:
        start = "data/09_rs/policy" if stage == "rl" else "data/05_sft/policy"
        gain = GAINS[algorithm] - params["rl"]["kl_coef"] * (stage == "rl")
        folder = {"rl": "data/10_rl", "dpo": "data/11_dpo"}[stage]
        write(f"{folder}/policy", {"quality": read(start) + gain + 0.02 * noise(algorithm, seed)})
        looks = [{"update": n, "kl": n / 10, "reward": n / 5, "held_out_reward": n / 6} for n in (0, 10)]
        write(folder, {"algorithm": algorithm, "val": looks}, "metrics.json")
    if stage == "evaluate":
        evaluate(sys.argv[1:])
    if stage == "gate":
        scores = json.loads(Path("data/12_evaluation/scores.json").read_text())
        write("data/13_gate", {"promote": True, "candidate": "sft", "reason": "", "checks": []}, "gate.json")


def evaluate(words):
    policies = {word.split("=")[0]: word.split("=")[1] for word in words if re.fullmatch(r"\\w+=data/.*", word)}
    policies = {"sft": "data/05_sft/policy"} | policies
    scores = {"judge": "gold", "policies": {}, "evaluation_set": {"prompts": 24}, "differences": {}}
    for name, path in policies.items():
        quality, rows = read(path), []
        for n in range(24):
            golds = [quality + noise("prompt", n) + 0.1 * noise(name, n, k, quality) for k in range(2)]
            samples = [{"gold_reward": g, "reward": 2 * g, "text": "x", "stop_reason": "stop"} for g in golds]
            rows.append({"id": f"q{n}", "messages": [{"content": "q"}], "completions": samples})
        Path("data/12_evaluation/completions").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\\n" for row in rows)
        Path(f"data/12_evaluation/completions/{name}.jsonl").write_text(text)
        mean = sum(s["gold_reward"] for row in rows for s in row["completions"]) / 48
        values = {"gold_reward": mean, "reward": 2 * mean, "kl": abs(quality - 0.5), "length": 12.0, "stop_rate": 1.0}
        scores["policies"][name] = {k: {"mean": v, "ci_low": v, "ci_high": v} for k, v in values.items()}
        scores["policies"][name]["held_out_reward"] = None
    write("data/12_evaluation", scores, "scores.json")
    curve = [{"n": n, "kl_bound": n - 1.0, "gold_reward": {"mean": 0.5 + n / 10}, "reward": None} for n in (1, 2)]
    write("data/12_evaluation", {"best_of_n": curve}, "curves.json")
"""

GRAPH = """stages:
  collect:
    cmd: python -m tasks.collect --out data/01_raw
    deps:
    - data/inbox
    - stage.py
    params:
    - collect
    outs:
    - data/01_raw/eval
  sft:
    cmd: python -m tasks.sft --rows data/01_raw/eval --out data/05_sft
    deps:
    - data/01_raw/eval
    - stage.py
    params:
    - seed
    - sft
    outs:
    - data/05_sft/policy
  # the preferences that SFT had none of
  dpo:
    cmd: python -m tasks.dpo --params dpo --policy data/05_sft/policy --out data/11_dpo
    deps:
    - data/05_sft/policy
    - stage.py
    params:
    - seed
    - dpo
    - algorithms.${dpo.algorithm}
    outs:
    - data/11_dpo/policy
    metrics:
    - data/11_dpo/metrics.json
  rejection_sampling:
    cmd: python -m tasks.rejection_sampling --policy data/05_sft/policy --out data/09_rs
    deps:
    - data/05_sft/policy
    - stage.py
    params:
    - seed
    outs:
    - data/09_rs/policy
    - data/09_rs/random_control
  # the leash
  rl:
    cmd: python -m tasks.rl --params rl --policy data/09_rs/policy --reward-model data/07 --reward-metrics data/07
      --out data/10_rl
    deps:
    - data/09_rs/policy
    - stage.py
    params:
    - seed
    - rl
    - algorithms.${rl.algorithm}
    outs:
    - data/10_rl/policy
    metrics:
    - data/10_rl/metrics.json
  evaluate:
    cmd: python -m tasks.evaluate --params evaluate --sft data/05_sft/policy
      --policies rejection_sampling=data/09_rs/policy random_control=data/09_rs/random_control
      rl=data/10_rl/policy dpo=data/11_dpo/policy
      --eval-prompts data/01_raw/eval --champion data/champion --out data/12_evaluation
    deps:
    - data/01_raw/eval
    - data/05_sft/policy
    - data/09_rs/policy
    - data/09_rs/random_control
    - data/10_rl/policy
    - data/11_dpo/policy
    - data/champion
    - stage.py
    params:
    - seed
    outs:
    - data/12_evaluation/completions
    - data/12_evaluation/curves.json
    metrics:
    - data/12_evaluation/scores.json
  gate:
    cmd: python -m tasks.gate --scores data/12_evaluation/scores.json --rl-metrics data/10_rl/metrics.json
      --out data/13_gate
    deps:
    - data/10_rl/metrics.json
    - data/12_evaluation/scores.json
    - stage.py
    outs:
    - data/13_gate/gate.json
"""
PARAMS = """# the toy
seed: 0
threads: 1
collect: {seed: 0}
sft: {epochs: 2}
dpo: {algorithm: dpo}
rl:
  algorithm: ppo
  kl_coef: 0.1  # the leash
algorithms:
  ppo: {clip_low: 0.2}
  grpo: {clip_low: 0.2}
  rloo: {clip_low: 0.2}
  dpo: {}
  ipo: {}
"""
STAGES = ("collect", "sft", "dpo", "rejection_sampling", "rl", "evaluate", "gate")


def make_toy(root: Path) -> Path:
    """A git checkout with one commit, nothing run yet."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / "tasks").mkdir()
    (root / "tasks" / "__init__.py").write_text("")
    for name in STAGES:
        (root / "tasks" / f"{name}.py").write_text(f"import stage\nstage.main({name!r})\n")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(PARAMS)
    (root / ".gitignore").write_text("/.preflow/\n/mlruns/\n/reports/\n__pycache__/\n/data/*\n!/data/inbox\n")
    (root / "data" / "inbox").mkdir(parents=True)
    (root / "data" / "inbox" / ".gitkeep").write_text("")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def start(root: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """`preflow WORDS` in the toy."""
    own = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "TOY_LOG": str(root.parent / "toy.log")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=root,
        env={**os.environ, **own, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ran(root: Path) -> list[str]:
    """Stages that have run, as `stage algorithm seed`."""
    log = root.parent / "toy.log"
    return [" ".join(line.split()) for line in log.read_text().splitlines()] if log.exists() else []
