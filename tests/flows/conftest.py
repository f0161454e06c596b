"""A toy project: the shape of the real graph with stages of a few lines, in a git repository of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import server

REPO = Path(__file__).parents[2]

# reads its inputs, writes their texts and a parameter; `mode` makes it misbehave
STAGE = '''
import json, os, signal, sys, time
from pathlib import Path
from ruamel.yaml import YAML

name, *deps = sys.argv[1:]
params = YAML(typ="safe").load(Path("params.yaml").read_text())
mode = params.get(name, {}).get("mode", "ok")
out = Path("data", name)
out.mkdir(parents=True, exist_ok=True)
folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"]) if "PREFLOW_HOME" in os.environ else None
if mode == "refuse":
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
(out / "text").write_text(f"{name} {params['seed']} {params['rl']['kl_coef'] if name == 'rl' else ''}\\n" + "".join(texts))
'''
GITIGNORE = "/.preflow/\n/mlruns/\n/reports/\n/hung\n" + "".join(f"/data/{x}\n" for x in ("collect", "sft", "rl", "dpo", "gate"))
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


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh project with one commit, nothing run yet."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = tmp_path / "project"
    return make_toy(root)


def make_toy(root: Path) -> Path:
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(
        "# the toy\nseed: 0\nthreads: 1\ncollect: {mode: ok}\nsft: {mode: ok}\nrl:\n  kl_coef: 5e-2  # the leash\n  mode: ok\n"
    )
    (root / ".gitignore").write_text(GITIGNORE)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


# The toy's params.yaml is not the product's: its check is left out, everything else is the real command.
PROGRAM = "from flows import profiles; profiles.check = lambda values: None; from flows.cli import main; main()"


def environ(api: str) -> dict[str, str]:
    """Of a `preflow` command that uses the server of this test session."""
    return {**os.environ, "PYTHONPATH": str(REPO), "PREFECT_API_URL": api, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server as the product starts it, for a project that only holds it."""
    root = tmp_path_factory.mktemp("server")
    before = dict(os.environ)
    try:
        here = server.start(root)
    finally:
        os.environ.clear()
        os.environ.update(before)
    yield here.url
    assert server.stop(root) == here


@pytest.fixture
def preflow(api: str) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """`preflow` as a program: exit code, the JSON object on standard output ({} for none), standard error."""

    def call(root: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=root,
            env=environ(api),
            text=True,
            capture_output=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr

    return call
