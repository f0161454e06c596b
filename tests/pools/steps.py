"""A toy whose `rl` works in steps, by the adapter of real stages: it keeps each one, and goes on from the last."""

from pathlib import Path

from tests.flows.toy import GRAPH, LONG, PARAMS, PROGRAM, REPO, git, make_toy
from tests.pools.hosts import Hosts

HOLD = "TOY_HOLDS"
"""Of a worker: a file for as long as which there is, its stage stays in step 2."""
STEPS = '''
"""Works in steps."""
import os, time
from pathlib import Path
from pydantic import Field
from tasks.config import Section
from tasks.journal import Log
from tasks.stage import main


class Rl(Section):
    kl_coef: float = Field(0.0, description="the leash")
    steps: int = Field(3, description="how many")


def rl(config: Rl, *, sft: Path, out: Path, scratch: Path, log: Log) -> None:
    folder, hold = scratch / "checkpoints", os.environ.get("TOY_HOLDS")
    done = max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)
    for step in range(done + 1, config.steps + 1):
        print(f"rl step {step}", flush=True)
        draft = folder / ".tmp-step"
        draft.mkdir(parents=True)
        (draft / "tensors").write_text(f"{step} of {config.steps}")
        draft.rename(folder / f"step-{step:06d}")
        log({"rl/step": float(step)}, step=step)
        while step == 2 and hold and Path(hold).exists():
            time.sleep(0.05)
    (out / "text").write_text((sft / "text").read_text() + f"rl {config.kl_coef}")


if __name__ == "__main__":
    main(rl)
'''
_BEFORE = f"{LONG}python stage.py rl sft\n    deps:\n    - stage.py\n"
_NOW = "python steps.py --params rl --sft data/sft --out data/rl\n    deps:\n    - steps.py\n"


def hosts_of_steps(base: Path, api: str, pools: str = "pools: {rl: gpu}\n") -> Hosts:
    """Those of this toy, published; no host has it yet."""
    hosts = Hosts(base, api, {"PYTHONPATH": str(REPO)}, ("-c", PROGRAM))
    project = make_toy(base / "origin")
    assert _BEFORE in GRAPH
    (project / "dvc.yaml").write_text(GRAPH.replace(_BEFORE, _NOW))
    (project / "steps.py").write_text(STEPS)
    (project / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    (project / "params.yaml").write_text(PARAMS.replace("  mode: ok\n", "  steps: 3\n") + pools)
    git(project, "add", "-A")
    git(project, "commit", "-qm", "steps")
    hosts.publish(project)
    return hosts
