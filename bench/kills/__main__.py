"""Kill -9 at random moments of a pipeline, run it again until it is done, and compare every byte with an unbroken run.

    python -m bench.kills                 # 30 runs of up to five kills each: an hour or two
    python -m bench.kills --runs 2        # to try it

Each run begins in a fresh checkout of the last commit, with all thirteen stages, cut to about a minute. What is killed
is drawn too: the process of a stage, the dvc above it, `preflow run` with Prefect's engine, or all there is. Nothing
is repaired by hand: the same command is typed again. It can be stopped and goes on where it was; docs/faults.md has
the table.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.kills.checkout import PREFLOW, ROOT, clone, stop
from bench.kills.victims import KINDS, gone, kill, living, of_server
from bench.orchestration.watch import environ
from bench.page import table, write_between
from flows.workspace import git
from tasks.config import read_yaml

BUILD = ROOT / "build/kills"
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs/faults.md"
MOST_KILLS = 5
PATIENCE = 60.0
"""Seconds in which what is left of a killed run must have ended by itself."""
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--show", action="store_true", help="the table of what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        measure(arguments.runs)
    print("\n".join(lines(kept())))


def kept() -> Record:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


def measure(runs: int) -> None:
    """Add runs to those of this commit until there are as many; one that ends otherwise is kept as well."""
    commit = git(ROOT, "rev-parse", "--short", "HEAD").strip()
    record = kept()
    if record.get("commit") != commit:
        record = {"commit": commit, "unbroken": unbroken(), "runs": []}
        keep(record)
    while len(record["runs"]) < runs:
        number = len(record["runs"])
        record["runs"].append(broken(number, record["unbroken"]))
        keep(record)
        print(
            f"run {number + 1} of {runs}: {told(record['runs'][-1], record['unbroken'])}", file=sys.stderr, flush=True
        )


def keep(record: Record) -> None:
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, "kills", lines(record))


def unbroken() -> Record:
    """Digest and seconds of a run that nobody disturbs."""
    place = BUILD / "unbroken"
    clone(place)
    began = time.monotonic()
    try:
        if code := subprocess.run([*PREFLOW, "run"], cwd=place, env=environ(), check=False).returncode:
            raise SystemExit(f"the unbroken run ended with {code}")
        return {"digest": digest(place), "seconds": time.monotonic() - began}
    finally:
        stop(place)


def broken(number: int, whole: Record) -> Record:
    """One run: kills at moments drawn from its number, then typed again until it is done."""
    draw = random.Random(number)
    place = BUILD / "broken"
    clone(place)
    kills: list[list[Any]] = []
    planned, began, typed, by_itself = draw.randint(1, MOST_KILLS), time.monotonic(), 0, 0
    try:
        while True:
            typed += 1
            moment = draw.uniform(0, whole["seconds"]) if len(kills) < planned else None
            code, hit = attempt(place, moment, draw.choice(KINDS))
            kills += [hit] if hit else []
            by_itself += code != 0 and not hit
            if code == 0:
                break
            if by_itself or typed > planned + MOST_KILLS:
                return {"kills": kills, "typed": typed, "code": code, "digest": "", "verify": None, "seconds": 0.0}
        verified = subprocess.run([*PREFLOW, "verify"], cwd=place, env=environ(), check=False, capture_output=True)
        seconds = time.monotonic() - began
        return {
            "kills": kills, "typed": typed, "code": 0, "digest": digest(place), "verify": verified.returncode,
            "seconds": round(seconds, 1),
        }  # fmt: skip
    finally:
        stop(place)


def attempt(place: Path, moment: float | None, kind: str) -> tuple[int, list[Any] | None]:
    """`preflow run`, with a kill at `moment`: its exit code, and (seconds, what was killed, the stage at work).

    The wait until a moment is what is tested here, and not a wait for something to be ready.
    """
    log = (place.parent / "log").open("ab")
    began = time.monotonic()
    run = subprocess.Popen([*PREFLOW, "run"], cwd=place, env=environ(), stdout=log, stderr=log, start_new_session=True)
    hit: list[Any] | None = None
    try:
        run.wait(moment)
    except subprocess.TimeoutExpired:
        stage = kill(kind, place, run.pid)
        hit = [round(time.monotonic() - began, 1), kind, stage] if stage else None
    except BaseException:
        kill("all", place, run.pid)  # it is in a session of its own, and would go on without us
        raise
    code = run.wait()
    # What a kill has left must end by itself: only the project's server may live on.
    if hit and not gone([process for process in living(place) if not of_server(process)], PATIENCE):
        raise SystemExit(f"after a kill of {kind} something of the run was still alive {PATIENCE:g} s later")
    log.close()
    return code, hit


def digest(place: Path) -> str:
    """Of every output that dvc.lock names, and of dvc.lock itself."""
    lock = read_yaml(place / "dvc.lock")["stages"]
    outs = sorted((out["path"], out["md5"]) for entry in lock.values() for out in entry.get("outs") or ())
    text = json.dumps(outs) + (place / "dvc.lock").read_text("utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def told(run: Record, whole: Record) -> str:
    """What became of a run."""
    if run["code"]:
        return f"ended with {run['code']} after {run['typed']} attempts"
    same = "equal" if run["digest"] == whole["digest"] else f"DIFFERENT (`{run['digest']}`)"
    return f"{same}, verify {'found nothing' if run['verify'] == 0 else 'FOUND DAMAGE'}"


def lines(record: Record) -> list[str]:
    """The table, and what it comes to; how runs ended has a column where one did not end as it should."""
    if not record.get("runs"):
        return ["Nothing has been killed yet."]
    runs, whole = record["runs"], record["unbroken"]
    good = sum(run["digest"] == whole["digest"] and run["verify"] == 0 for run in runs)
    kills = sum(len(run["kills"]) for run in runs)
    rows = [
        [
            str(number),
            "; ".join(f"{kind} at {moment:g} s ({stage})" for moment, kind, stage in run["kills"])
            or "none came in time",
            str(run["typed"]),
            *([told(run, whole)] if good < len(runs) else []),
        ]
        for number, run in enumerate(runs, 1)
    ]
    head = (
        f"{good} of {len(runs)} runs ended in the bytes of the unbroken one (`{whole['digest']}`, "
        f"{whole['seconds']:.0f} s), and `verify` found nothing in them, after {kills} kills. "
        f"Commit {record['commit']}."
    )
    header = ["run", "killed with -9", "typed", *(["end"] if good < len(runs) else [])]
    return [head, "", *table(header, rows, texts=2)]


if __name__ == "__main__":
    main()
