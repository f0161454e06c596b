"""A toy project: the shape of the real graph with stages of a few lines, in a git repository of its own."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows import dvc
from flows.request import Report

REPO = Path(__file__).parents[2]

# reads its inputs, writes their texts and a parameter; `mode` makes it misbehave
STAGE = """
import json, os, signal, sys, time
from pathlib import Path
from ruamel.yaml import YAML

name, *deps = sys.argv[1:]
params = YAML(typ="safe").load(Path("params.yaml").read_text())
mode = params.get(name, {}).get("mode", "ok")
out = Path("data", name)
out.mkdir(parents=True, exist_ok=True)
if mode == "refuse":
    folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"])
    (folder / f"{name}-1").mkdir()
    end = {"event": "end", "time": 0, "status": "FAILED", "exit_code": 3, "reason": "rows.jsonl:7 has no prompt"}
    (folder / f"{name}-1" / "events.jsonl").write_text(json.dumps(end) + "\\n")
    sys.exit(3)
if mode == "die":
    os.kill(os.getpid(), signal.SIGKILL)
print(f"{name} works", flush=True)
if mode == "hang":
    if Path("hung").exists():
        mode = "ok"
    else:
        Path("hung").write_text(str(os.getpid()))
        time.sleep(600)
texts = [path.read_text() for dep in deps for path in sorted(Path("data", dep).iterdir())]
own = params["rl"]["kl_coef"] if name == "rl" else params["seed"]
(out / "text").write_text(f"{name} {own}\\n" + "".join(texts))
"""
GITIGNORE = "/.preflow/\n/mlruns/\n/reports/\n/hung\n/data/*\n"
PARAMS = """# the toy
seed: 0
threads: 1
collect: {mode: ok}
sft: {mode: ok}
rl:
  kl_coef: 5e-2  # the leash
  mode: ok
"""
LONG = "A_LONG_NAME_SO_THAT_THE_LINE_IS_FOLDED=1 ANOTHER_ONE_FOR_THE_SAME_REASON=2 "


def stage(name: str, *deps: str, params: str = "seed") -> str:
    """One stage of dvc.yaml."""
    lines = [f"  {name}:", f"    cmd: {LONG}python stage.py {' '.join([name, *deps])}", "    deps:", "    - stage.py"]
    lines += [f"    - data/{dep}" for dep in deps]
    return "\n".join([*lines, "    params:", f"    - {params}", "    outs:", f"    - data/{name}", ""])


GRAPH = "stages:\n" + "".join(
    [
        stage("collect", params="collect"),
        stage("sft", "collect"),
        stage("dpo", "sft"),
        stage("rl", "sft", params="rl"),
        stage("gate", "rl", "dpo"),
    ]
)


def git(root: Path, *arguments: str) -> str:
    """A git command of the user."""
    identity = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def make_toy(root: Path) -> Path:
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(PARAMS)
    (root / ".gitignore").write_text(GITIGNORE)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


class Nobody:
    """A tracker that keeps nothing and knows no champion: the toy has neither models nor data to show."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: {} if name == "finish_run" else None


# The same as a program of its own, for what cannot be tried from inside.
PROGRAM = """
from flows import champion, closing, launch, profiles, running
from tests.flows.toy import Nobody
profiles.check = lambda *_: None
champion.tracking = closing.tracking = launch.tracking = running.tracking = Nobody()
from flows.cli import main
main()
"""


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def states(report: Report) -> dict[str, str]:
    """What became of each stage, in the order of the report."""
    return {stage["name"]: stage["state"] for stage in report.stages}


def dvc_repro(root: Path) -> str:
    """`dvc repro` as a user types it; standard output."""
    done = subprocess.run(
        [dvc.program(), "repro"], cwd=root, env=dvc.environ(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
