"""A project of the real shape with stages of a few lines, for what comes after them: registry, refs, schedules.

Rows of preference shards are words: `good` ones raise the quality of the policy, `flipped` ones lower it, `bad` ones
are refused. The gate promotes what is better than the champion's answers say that it is.
"""

import json
import shutil
from pathlib import Path

from tests.flows.toy import REPO, git

STAGE = """
import json, os, sys
from pathlib import Path

name = sys.argv[1]

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)

def read(path):
    return json.loads(Path(path).read_text())

if name == "collect":
    shards = sorted(Path("data/inbox/preferences").glob("*.jsonl"))
    write("data/01_raw/words", " ".join(shard.read_text().strip() for shard in shards))
if name == "validate":
    words = Path("data/01_raw/words").read_text().split()
    if "bad" in words:
        folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"], "validate-1")
        folder.mkdir(parents=True)
        end = {"event": "end", "time": 0, "status": "FAILED", "exit_code": 3, "reason": "a row is bad"}
        (folder / "events.jsonl").write_text(json.dumps(end) + "\\n")
        sys.exit(3)
    write("data/03_validated/rows", " ".join(words))
    lengths = {"chars": {"powers_of_two": {"8": len(words)}}}
    profile = {"rows": len(words), "sources": {word: words.count(word) for word in words}, "lengths": lengths}
    write("data/03_validated/report/profile.json", json.dumps({"preferences": profile}))
if name == "base":
    write("data/04_base/policy/config.json", "{}")
if name == "rl":
    words = Path("data/03_validated/rows").read_text().split()
    quality = words.count("good") - words.count("flipped")
    write("data/10_rl/policy/config.json", json.dumps({"quality": quality}))
if name == "evaluate":
    quality = read("data/10_rl/policy/config.json")["quality"]
    champion = read("data/champion/champion.json")["version"]
    best = read("data/champion/completions.jsonl")["completions"][0]["gold_reward"] if champion else None
    answer = {"text": "so good", "gold_reward": quality, "stop_reason": "eos"}
    asked = {"id": "q", "messages": [{"role": "user", "content": "how good?"}], "completions": [answer]}
    write("data/12_evaluation/completions/rl.jsonl", json.dumps(asked) + "\\n")
    asked = {"digest": "e", "prompts": 1, "samples_per_prompt": 1}
    scores = {"evaluation_set": asked, "base": "b", "chat": "c", "judge": "gold", "differences": {}}
    scores |= {"quality": quality, "champion": best}
    gold = {"mean": quality, "ci_low": quality, "ci_high": quality}
    write("data/12_evaluation/scores.json", json.dumps(scores | {"policies": {"rl": {"gold_reward": gold}}}))
if name == "gate":
    scores = read("data/12_evaluation/scores.json")
    better = scores["champion"] is None or scores["quality"] > scores["champion"]
    reason = f"quality {scores['quality']} against {scores['champion']}"
    gate = {"promote": better, "candidate": "rl", "against": "champion", "judge": "gold", "checks": []}
    write("data/13_gate/gate.json", json.dumps(gate | {"reason": reason}))
"""
EVALUATE = "tasks.evaluate --base data/04_base/policy --policies rl=data/10_rl/policy --champion data/champion"
GRAPH = f"""stages:
  collect:
    cmd: python stage.py collect
    deps: [stage.py, data/inbox]
    outs: [data/01_raw]
  validate:
    cmd: python stage.py validate
    deps: [stage.py, data/01_raw]
    outs: [data/03_validated/rows, data/03_validated/report]
  base:
    cmd: python stage.py base
    deps: [stage.py]
    params: [base.seed]
    outs: [data/04_base/policy]
  rl:
    cmd: python stage.py rl
    deps: [stage.py, data/03_validated/rows, data/04_base/policy]
    params: [rl.kl_coef]
    outs: [data/10_rl/policy]
  evaluate:
    cmd: python stage.py evaluate {EVALUATE}
    deps: [stage.py, data/10_rl/policy, data/04_base/policy, data/champion]
    outs: [data/12_evaluation/completions, data/12_evaluation/scores.json]
  gate:
    cmd: python stage.py gate
    deps: [stage.py, data/12_evaluation/scores.json]
    outs: [data/13_gate/gate.json]
"""


def make(root: Path) -> Path:
    """A fresh checkout of it, with one commit and an empty inbox."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(GRAPH)
    shutil.copyfile(REPO / "params.yaml", root / "params.yaml")
    (root / ".gitignore").write_text("/.preflow/\n/mlruns/\n/reports/\n/data/*\n")
    (root / "data" / "inbox").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def shard(root: Path, name: str, *words: str) -> Path:
    """Preferences that lie in the inbox."""
    path = root / "data" / "inbox" / "preferences" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(words) + "\n")
    return path


def champion_json(root: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / "data/champion/champion.json").read_text())
    return found
