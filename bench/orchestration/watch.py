"""A command watched from outside: what processes it has at each moment, and the processor time of each kind."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.speed.sides import children

EVERY = 0.1  # seconds between two looks

_KINDS = {  # the first that a command line has; what has none is told by its parent
    "keeper": re.compile(r"-m tasks\.tracking"),
    "server": re.compile(r"flows\.supervisor|create_app"),
    "stage": re.compile(r"-m tasks\.\w+"),
    "dvc": re.compile(r"\S*/dvc( |$)"),
    "git": re.compile(r"^(\S*/)?git "),
}


@dataclass
class Watched:
    """One command from its start to its end."""

    output: str = ""
    began: float = 0.0
    seconds: float = 0.0
    looks: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    """Time, and the kinds of processes that there were."""
    processor: Mapping[str, float] = field(default_factory=dict)
    """Seconds by kind: `server` beside all that the command waited for, which is `command`."""
    others: float = 0.0
    """Cores busy with something else meanwhile."""


def watch(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Watched:
    """Run it to its end; its standard error goes to ours.

    Raises:
        RuntimeError: it ended with an error.
    """
    found, used = Watched(began=time.time()), dict[tuple[int, float], float]()
    before, busy = children(), _busy()
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            found.looks.append((time.time(), _look(process.pid, used)))
            time.sleep(EVERY)
        found.seconds = time.time() - found.began
        found.output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    found.processor = {"command": children() - before, "server": sum(used.values())}
    found.others = max(0.0, _busy() - busy - sum(found.processor.values())) / found.seconds
    return found


def kind_of(command_line: str) -> str:
    """What a process is for; "" for one of the command's own."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(command_line)), "")


def _look(pid: int, used: dict[tuple[int, float], float]) -> frozenset[str]:
    """Kinds of processes below this one; keeps what a server, which outlives the command, has used since it began."""
    kinds = set()
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                kind = kind_of(" ".join(child.cmdline()))
                kinds.add(kind)
                if kind == "server":
                    times = child.cpu_times()
                    used[child.pid, child.create_time()] = times.user + times.system
    return frozenset(kinds)


def _busy() -> float:
    """Seconds that all cores together have worked since the machine began."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def environ() -> dict[str, str]:
    """Of a command in a checkout of its own, whatever server is named here."""
    own = ("PREFECT_API_URL", "PREFLOW_HOME", "PREFLOW_RUN", "MLFLOW_TRACKING_URI")
    found = {name: value for name, value in os.environ.items() if name not in own}
    return found | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])}
