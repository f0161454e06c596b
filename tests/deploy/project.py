"""A toy project whose stages speak like real ones: journals with metrics, a table, and an end."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.flows.toy import REPO, git, make_toy

STEPS = 400
STAGES = ("collect", "sft", "dpo", "rl", "gate")

# Between its two halves `rl` waits where TOY_MEET says so: it names its run there, and goes on when `go` is there.
STAGE = f"""
import os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
from tasks.journal import Log, new_folder
from tasks.witness import origin, outputs

name, *deps = sys.argv[1:]
params = YAML(typ="safe").load(Path("params.yaml").read_text())
run = os.environ.get("PREFLOW_RUN", "by-hand")
log = Log(new_folder(Path.cwd(), run, name), name)
log.event("start", stage=name, key="", root=os.getcwd(), config={{"seed": params["seed"]}}, **origin())
out = Path("data", name)
out.mkdir(parents=True, exist_ok=True)
texts = [path.read_text() for dep in deps for path in sorted(Path("data", dep).iterdir())]
for step in range({STEPS}):
    worst = float("nan") if step == 7 else 1.0
    log({{f"{{name}}/loss": params["seed"] + 1 / (step + 1), f"{{name}}/kl": step / 3, f"{{name}}/worst": worst}}, step)
    if step == {STEPS} // 2 and name == "rl" and "TOY_MEET" in os.environ:
        meet = Path(os.environ["TOY_MEET"])
        (meet / f"{{run}}.waits").touch()
        while not (meet / "go").exists():
            time.sleep(0.05)
log.table("samples", [{{"prompt": "Name a colour.", "completion": f"blue, says {{name}}"}}])
(out / "text").write_text(f"{{name}} {{params['seed']}}\\n" + "".join(texts))
used = {{"cpu_seconds": 1.0}}
log.event("end", status="FINISHED", exit_code=0, reason="", outs=outputs(Path.cwd(), [f"data/{{name}}"]), used=used)
"""

# The toy's params.yaml is not the product's.
PROGRAM = """
from flows import profiles
profiles.check = lambda *_: None
from flows.cli import main
main()
"""


def make_project(root: Path) -> Path:
    """One commit, nothing run yet."""
    make_toy(root)
    (root / "stage.py").write_text(STAGE)
    # Every run has its own seed, and every stage reads it: nothing is shared but the cache.
    graph = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(re.sub(r"^    - (collect|rl)$", "    - seed", graph, flags=re.MULTILINE))
    git(root, "commit", "-qam", "stages that speak")
    return root


def preflow(root: Path, env: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start `preflow ARGUMENTS` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What `preflow run --json` said at its end, with its exit code and what it said on the way."""
    told, errors = process.communicate(timeout=600)
    found: dict[str, Any] = json.loads(told) if told else {}
    return found | {"code": process.returncode, "stderr": errors}


Point = tuple[str, str, int, int, float | None]


def points_of(root: Path) -> Counter[Point]:
    """Every number that the stages wrote down: run, name, step, milliseconds, value (None: not a number)."""
    found: Counter[Point] = Counter()
    for path in (root / ".preflow" / "journal").glob("*/*/events.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "metrics":
                for name, value in event["metrics"].items():
                    shown = None if value != value else value
                    found[(path.parts[-3], name, event["step"], int(event["time"] * 1000), shown)] += 1
    return found
