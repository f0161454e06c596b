"""What the default pipeline costs besides its stages: seconds of each part, and of a run in which nothing has to run.

    python -m bench.orchestration                              # a whole run, then two with nothing to do: minutes
    python -m bench.orchestration --set rl.num_updates=3       # with settings, to try it; the page is left as it is

It works in a clone of the last commit under build/orchestration, with a server, a store and a cache of its own, so
nothing is kept from before. The table in docs/speed.md is written anew.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.orchestration import table
from bench.orchestration.parts import parts, work_of
from bench.orchestration.watch import environ, watch
from bench.page import write_between

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build/orchestration/checkout"
PAGE = ROOT / "docs/speed.md"
PREFLOW = [sys.executable, "-m", "flows.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.orchestration", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `preflow run`")
    settings = [word for setting in parser.parse_args().set for word in ("--set", setting)]
    commit = clone()
    try:
        columns = {
            "first run": measure(*settings),
            "nothing to do, server up": measure(*settings),
            "nothing to do, no server": stop() or measure(*settings),
        }
    finally:
        stop()
    lines = table.lines(columns, machine(), commit)
    print("\n".join(lines))
    if not settings:
        write_between(PAGE, "orchestration", lines)


def clone() -> str:
    """A fresh checkout of the last commit, which is returned, as the set-up leaves it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "-q", ROOT, PLACE], check=True)
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, cwd=PLACE, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([sys.executable, "-m", "flows.first"], cwd=PLACE, env=environ(), check=True)  # as `make setup` does
    return commit


def measure(*settings: str) -> dict[str, Any]:
    """One `preflow run`, watched."""
    found = watch([*PREFLOW, "run", "--json", *settings], PLACE, environ())
    report = json.loads(found.output)
    stages = [span for spans in work_of(PLACE / ".preflow/journal" / report["run"]).values() for span in spans]
    return {
        "seconds": found.seconds,
        "parts": parts(found.looks, stages, found.began, found.seconds),
        "stage_seconds": sum(end - begin for begin, end in stages),
        "processor": found.processor,
        "others": found.others,
    }


def stop() -> None:
    """End the server of the clone."""
    subprocess.run([*PREFLOW, "stop"], cwd=PLACE, env=environ(), check=False, stdout=subprocess.DEVNULL)


def machine() -> str:
    """In words, with the day: figures of another machine or day are others."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, {time.strftime('%Y-%m-%d')}"


if __name__ == "__main__":
    main()
