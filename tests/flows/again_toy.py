"""A project with shards, rows, a policy and scores, each stage a program of a few lines: to be done again and compared.

What a test may turn: files in data/inbox, params.yaml, the programs; `NOISE` makes training differ, `CPU` the machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows import dvc, workspace
from tests.flows.toy import REPO, dvc_repro, git, make_toy

INBOX = "data/inbox/preferences"
COLLECT = """
import hashlib, json, shutil
from pathlib import Path
out = Path("data/raw/preferences")
out.mkdir(parents=True)
notes = {}
for shard in sorted(Path("data/inbox/preferences").glob("*.jsonl")):
    shutil.copy(shard, out)
    sha256 = hashlib.sha256(shard.read_bytes()).hexdigest()
    notes[shard.name] = {"name": shard.stem, "origin": f"inbox/preferences/{shard.name}", "sha256": sha256}
(out / "origin.json").write_text(json.dumps(notes))
"""
PREPARE = """
import hashlib, json
from pathlib import Path
rows = []
for shard in sorted(Path("data/raw/preferences").glob("*.jsonl")):
    for number, line in enumerate(shard.read_text().splitlines(), 1):
        id = hashlib.sha256(line.encode()).hexdigest()[:16]
        rows.append({"id": id, "file": f"preferences/{shard.name}", "line": number, "text": line})
out = Path("data/prepared/preferences")
out.mkdir(parents=True)
(out / "rows.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
RL = """
import json, os
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml").read_text())
rows = Path("data/prepared/preferences/rows.jsonl").read_text().count("\\n")
weight = params["rl"]["kl_coef"] + rows + float(os.environ.get("NOISE", 0))
Path("data/rl/policy").mkdir(parents=True)
Path("data/rl/policy/weights").write_text(str(weight))
reward = {"mean": weight, "ci_low": weight - 0.5, "ci_high": weight + 0.5}
Path("data/rl/metrics.json").write_text(json.dumps({"reward": reward, "steps": 3}))
if "PREFLOW_RUN" in os.environ:
    folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"], "rl-1")
    folder.mkdir(parents=True)
    used = {"device": "cpu", "cpu_capability": os.environ.get("CPU", "AVX2"), "threads": 1}
    end = {"event": "end", "time": 0, "status": "FINISHED", "exit_code": 0, "reason": "", "used": used}
    (folder / "events.jsonl").write_text(json.dumps(end) + "\\n")
"""
EVALUATE = """
import json
from pathlib import Path
weight = float(Path("data/rl/policy/weights").read_text())
out = Path("data/eval/completions")
out.mkdir(parents=True)
gold = [[weight + prompt - 0.25, weight + prompt + 0.25] for prompt in range(9)]
rows = [{"id": f"p{n}", "completions": [{"gold_reward": one} for one in pair]} for n, pair in enumerate(gold)]
(out / "rl.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
about = {"judge": "gold", "evaluation_set": {"digest": "same"}, "scorers": {"policy_rm": f"rm {weight}"}}
spread = {"mean": weight + 4, "ci_low": weight + 2, "ci_high": weight + 6}
policy = {"gold_reward": spread, "reward": spread, "kl": {"mean": 1.0, "ci_low": 0.7, "ci_high": 1.4}}
Path("data/eval/scores.json").write_text(json.dumps(about | {"policies": {"rl": policy}}))
"""
GRAPH = """
stages:
  collect:
    cmd: python collect.py
    deps: [collect.py, data/inbox]
    outs: [data/raw/preferences]
  prepare:
    cmd: python prepare.py
    deps: [prepare.py, data/raw/preferences]
    outs: [data/prepared/preferences]
  rl:
    cmd: THREADS=${threads} python rl.py
    deps: [rl.py, data/prepared/preferences, environment.json]
    params: [rl, "algorithms.${rl.algorithm}"]
    outs: [data/rl/policy]
    metrics: [data/rl/metrics.json]
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, data/rl/policy]
    outs: [data/eval/completions]
    metrics: [data/eval/scores.json]
"""
PARAMS = """threads: 1
rl: {kl_coef: 0.5, algorithm: ppo}
algorithms:
  ppo: {lr: 1.0}
  rloo: {lr: 2.0}
"""
RUN = "20260101-000000-abcd"
STAGES = ["collect", "prepare", "rl", "evaluate"]
OUTS = [
    *("data/raw/preferences", "data/prepared/preferences", "data/rl/metrics.json", "data/rl/policy"),
    *("data/eval/completions", "data/eval/scores.json"),
]


def make_story(root: Path) -> Path:
    """A fresh project with two rows in its inbox, nothing run yet."""
    make_toy(root)
    (root / "stage.py").unlink()
    programs = {"collect.py": COLLECT, "prepare.py": PREPARE, "rl.py": RL, "evaluate.py": EVALUATE}
    installed = json.loads((REPO / "environment.json").read_text())
    others = {"dvc.yaml": GRAPH, "params.yaml": PARAMS, ".dvcignore": ".gitkeep\n"}
    for name, text in {**programs, **others, "environment.json": json.dumps({"numpy": installed["numpy"]})}.items():
        (root / name).write_text(text)
    (root / INBOX).mkdir(parents=True)
    (root / "data/inbox/.gitkeep").touch()
    add_rows(root, "old.jsonl", "a", "b")
    git(root, "add", "-A")
    git(root, "add", "-f", "data/inbox/.gitkeep")
    git(root, "commit", "-q", "-m", "story")
    return root


def add_rows(root: Path, shard: str, *rows: str) -> None:
    """Write a shard of these rows."""
    (root / INBOX / shard).write_text("".join(f"{row}\n" for row in rows))


def done(root: Path, name: str) -> str:
    """Run it as it is now with plain DVC, and keep it as a run is kept; its commit is tagged `name`."""
    dvc_repro(root)
    return keep(root, name, (root / "dvc.lock").read_text())


def keep(root: Path, name: str, lock: str) -> str:
    """Keep the project as it is now with this dvc.lock."""
    kept = workspace.snapshot(root, RUN, f"preflow run {RUN} []", extra={"dvc.lock": lock.encode()})
    git(root, "tag", name, kept.commit)
    return kept.commit


def preflow(root: Path, *words: str, code: int = 0, **variables: str) -> dict[str, Any]:
    """`preflow WORDS --json`: the object on stdout."""
    return json.loads(text(root, *words, "--json", code=code, **variables))


def text(root: Path, *words: str, code: int = 0, **variables: str) -> str:
    """Standard output of `preflow WORDS`."""
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPO), **variables},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def clone_with_remotes(root: Path, folder: Path) -> Path:
    """Push everything to a bare git repository and a DVC remote below `folder`, and clone: no cache, no MLflow."""
    subprocess.run([dvc.program(), "remote", "add", "-q", "-d", "store", str(folder / "store")], cwd=root, check=True)
    subprocess.run([dvc.program(), "push", "-q"], cwd=root, env=dvc.environ(), check=True)
    git(root, "commit", "-q", "-a", "-m", "remote")
    git(folder, "init", "-q", "--bare", "-b", "main", "origin.git")
    git(root, "push", "-q", str(folder / "origin.git"), "main", "refs/preflow/*:refs/preflow/*")
    git(folder, "clone", "-q", str(folder / "origin.git"), "clone")
    return folder / "clone"


def lose(cache: Path, md5: str) -> None:
    """Take an object out of a cache or remote."""
    (cache / "files/md5" / md5[:2] / md5[2:]).unlink()


def copied(root: Path, to: Path) -> Path:
    """A copy of a project with all that it has done."""
    shutil.copytree(root, to, symlinks=True)
    return to
