"""Twenty pipelines in a row in one workspace: processes, open files, the server's memory, temporary files after each.

    python -m bench.soak               # twenty runs of all stages, cut short: half an hour
    python -m bench.soak --runs 3      # to try it

Every run has another seed, so that each stage runs each time: odd ones in the checkout itself, even ones by `--set` in
a worktree of their own. Temporary files are those of a folder that nobody else uses (TMPDIR). docs/faults.md has the
table; what may grow, and by how much, is written there too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench.kills.checkout import PREFLOW, ROOT, clone, stop
from bench.kills.victims import living, of_server
from bench.orchestration.watch import environ
from bench.page import table, write_between
from flows import profiles

PLACE = ROOT / "build/soak/checkout"
TMP = ROOT / "build/soak/tmp"
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs/faults.md"
Look = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    shutil.rmtree(TMP, ignore_errors=True)
    TMP.mkdir(parents=True)
    clone(PLACE)
    looks = []
    try:
        for number in range(1, runs + 1):
            looks.append(one(number))
            print(json.dumps(looks[-1]), file=sys.stderr, flush=True)
    finally:
        stop(PLACE)
    left = {"processes": sum(1 for _ in living(PLACE)), "temporary": _files(TMP)}
    RESULTS.write_text(json.dumps({"looks": looks, "left": left}, indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, "soak", lines(looks, left))
    print("\n".join(lines(looks, left)))


def one(number: int) -> Look:
    """Run a pipeline and look at what it left."""
    arguments = ["--set", f"seed={number}"] if number % 2 == 0 else []
    if not arguments:
        params = PLACE / "params.yaml"
        params.write_text(profiles.resolve(PLACE, settings=[f"seed={number}"]).text, encoding="utf-8")
    began = time.monotonic()
    surroundings = environ() | {"TMPDIR": str(TMP)}
    done = subprocess.run([*PREFLOW, "run", *arguments], cwd=PLACE, env=surroundings, check=False, capture_output=True)
    if done.returncode not in (0, 4):
        raise SystemExit(f"run {number} ended with {done.returncode}:\n{done.stderr.decode()[-3000:]}")
    return {"run": number, "seconds": round(time.monotonic() - began)} | look()


def look() -> Look:
    """What there is after a run."""
    there = list(living(PLACE))
    servers = [process for process in there if of_server(process)]
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=PLACE, check=True, capture_output=True, text=True)
    return {
        "processes": len(there) - len(servers),
        "server_mb": round(sum(_memory(process) for process in servers) / 2**20),
        "server_files": sum(_open_files(process) for process in servers),
        "temporary": _files(TMP),
        "dvc_tmp": _files(PLACE / ".dvc/tmp"),
        "scratch": _files(PLACE / ".preflow/scratch"),
        "worktrees": worktrees.stdout.count("\n") - 1,
        "prefect_mb": _size(PLACE / ".preflow/prefect"),
        "mlflow_mb": _size(PLACE / "mlruns/mlflow.db"),
        "journal_mb": _size(PLACE / ".preflow/journal"),
        "cache_mb": _size(PLACE / ".dvc/cache"),
    }


def _memory(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().uss)
    return 0


def _open_files(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.num_fds())
    return 0


def _files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 2**20)


COLUMNS = {
    "run": "run", "seconds": "seconds", "processes": "processes", "server_mb": "server MB", "server_files": "its files",
    "temporary": "temporary files", "dvc_tmp": ".dvc/tmp", "scratch": "scratch", "worktrees": "worktrees",
    "prefect_mb": "Prefect MB", "mlflow_mb": "MLflow MB", "journal_mb": "journal MB", "cache_mb": "cache MB",
}  # fmt: skip


def lines(looks: list[Look], left: Look) -> list[str]:
    """The table, and what it comes to."""
    first, last = looks[min(1, len(looks) - 1)], looks[-1]
    head = (
        f"{len(looks)} pipelines. From the second to the last run the server went from {first['server_mb']} to "
        f"{last['server_mb']} MB and from {first['server_files']} to {last['server_files']} open files. After "
        f"`preflow stop` {left['processes']} processes and {left['temporary']} temporary files were left."
    )
    rows = [[str(look[name]) for name in COLUMNS] for look in looks]
    return [head, "", *table(list(COLUMNS.values()), rows, texts=1)]


if __name__ == "__main__":
    main()
