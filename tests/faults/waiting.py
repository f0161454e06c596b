"""A project of two real stages, of which the first waits to be let go: for what may die meanwhile."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from flows import server
from tests.flows.toy import PROGRAM, REPO, git, make_toy

STAGE = '''
"""Writes what it reads, and when it began and ended; waits where it is told to, until somebody writes to `gate`."""

import os
from pathlib import Path

from pydantic import Field

from tasks.config import Section
from tasks.journal import Log
from tasks.stage import main


class Copies(Section):
    waits: bool = Field(False, description="whether to wait")


def note(what: str) -> None:
    with Path("began").open("a") as file:
        file.write(f"{os.getpid()} {what}\\n")


def copies(config: Copies, *, source: Path, out: Path, scratch: Path, log: Log) -> None:
    note("begins")
    if config.waits:
        Path("gate").read_text()
    (out / "text").write_text(source.read_text() + "copied\\n")
    note("ends")


if __name__ == "__main__":
    main(copies)
'''
GRAPH = "stages:\n" + "".join(
    f"""  {name}:
    cmd: python copies.py --params {name} --source {source} --out data/{name}
    deps: [copies.py, {source}]
    params: [{name}]
    outs: [data/{name}/text]
"""
    for name, source in (("first", "rows.txt"), ("second", "data/first/text"))
)


def make(root: Path) -> Path:
    """A fresh one; a stage that waits blocks on reading its gate, a pipe, until somebody opens it for writing."""
    make_toy(root)
    (root / "stage.py").unlink()
    files = {"copies.py": STAGE, "dvc.yaml": GRAPH, "params.yaml": "first: {waits: true}\nsecond: {}\n"}
    files |= {"rows.txt": "a row\n", ".gitignore": "/.preflow/\n/mlruns/\n/reports/\n/data/*\n/gate\n/began\n"}
    for name, text in files.items():
        (root / name).write_text(text)
    (root / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "two stages")
    os.mkfifo(root / "gate")
    return root


def start(root: Path, api: str = "") -> subprocess.Popen[str]:
    """`preflow run --json`, with the Prefect server at `api`, or else one of the project's own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "PREFLOW"))}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", "--json"],
        cwd=root,
        env=environ
        | {"PYTHONPATH": str(REPO), "PREFECT_HOME": str(root / ".preflow/prefect")}
        | ({"PREFECT_API_URL": api} if api else {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def at_work(root: Path, running: subprocess.Popen[str]) -> psutil.Process:
    """The stage that waits, once it does."""
    while not (root / "began").exists() or not (root / "began").read_text().endswith("\n"):
        assert running.poll() is None, running.communicate()
        threading.Event().wait(0.02)
    return psutil.Process(int((root / "began").read_text().split()[-2]))


def let_go(root: Path) -> None:
    """The stage that waits goes on, and none waits again."""
    with (root / "gate").open("w"):
        (root / "gate").unlink()
        (root / "gate").touch()


def ended(running: subprocess.Popen[str]) -> tuple[int, dict[str, str], str]:
    """Exit code, what became of each stage, and what was said."""
    out, err = running.communicate()
    stages = json.loads(out)["stages"] if out.strip() else []
    return running.returncode, {stage["name"]: stage["state"] for stage in stages}, err


def began(root: Path) -> list[tuple[int, str]]:
    """Which process began and ended, in that order."""
    return [(int(line.split()[0]), line.split()[1]) for line in (root / "began").read_text().splitlines()]


def servers(root: Path) -> tuple[psutil.Process, list[psutil.Process]]:
    """The supervisor of the project's Prefect server, and the server below it."""
    found = server.running(root)
    assert found is not None
    supervisor = psutil.Process(found.pid)
    return supervisor, supervisor.children(recursive=True)
