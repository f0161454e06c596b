"""The sides of a comparison, ours, TRL tuned and TRL as it comes, each in a process of its own, never two at once."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.speed.cell import Cell
from bench.speed.store import ROOT, modules
from tasks.variables import ALLOCATOR

SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",  # before torch is imported, which is when it counts
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SIDES = ("ours", "theirs", "as_it_comes")
TICKS = os.sysconf("SC_CLK_TCK")


def environments(cell: Cell) -> dict[str, str]:
    """The folder of each side's environment."""
    theirs = ".venv-trl-ppo" if cell.stage == "ppo" else ".venv-trl"
    return {"ours": ".venv", "theirs": theirs, "as_it_comes": theirs}


def prepare(cell: Cell, build: Path) -> Path:
    """The folder of the cell's inputs, made anew."""
    folder = build / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.json").write_text(json.dumps(cell.as_dict()), encoding="utf-8")
    python(".venv", ["bench.speed.inputs", str(folder)], folder / "inputs.log")
    return folder


def run(cell: Cell, side: str, folder: Path) -> dict[str, Any]:
    """What a side measured. Raises SystemExit with the end of its log where it failed."""
    result = folder / f"{side}.json"
    result.unlink(missing_ok=True)
    module = modules(cell)[side != "ours"]
    further = ["--as-it-comes"] if side == "as_it_comes" else []
    began, busy, own = time.perf_counter(), _busy(), children()
    memory = ALLOCATOR if side == "ours" else {}  # as our stages run; TRL sets nothing of the kind
    python(environments(cell)[side], [module, str(folder), str(result), *further], folder / f"{side}.log", **memory)
    took = time.perf_counter() - began
    now = _busy()
    others = None if busy is None or now is None else max(0.0, (now - busy - (children() - own)) / took)
    measured: dict[str, Any] = json.loads(result.read_text("utf-8"))
    return measured | {"others": others}


def profiled(folder: Path) -> dict[str, float]:
    """Shares of our side's time, by kind of work."""
    result = folder / "profile.json"
    python(".venv", ["bench.speed.profile", str(folder), str(result)], folder / "profile.log", **ALLOCATOR)
    found: dict[str, float] = json.loads(result.read_text("utf-8"))
    return found


def python(environment: str, arguments: list[str], log: Path, **variables: str) -> None:
    """Run a module in one of the environments, with one thread. Raises SystemExit with the end of its log."""
    command = [interpreter(environment), "-m", *arguments]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | SURROUNDINGS | variables,
        )
    if done.returncode:
        lines = log.read_text("utf-8").splitlines()
        raise SystemExit("\n".join([f"{' '.join(arguments[:1])} ended with {done.returncode}:", *lines[-20:]]))


def interpreter(environment: str) -> str:
    """Of an environment beside the code; ours is the one that this runs in, on a machine with a GPU perhaps another."""
    return sys.executable if environment == ".venv" else str(ROOT / environment / "bin/python")


def _busy() -> float | None:
    """Seconds that all cores together were not idle; None where the system does not say."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, *interrupts = map(int, path.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / TICKS


def children() -> float:
    """Processor seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
