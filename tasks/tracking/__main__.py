"""`python -m tasks.tracking follow RUN`: ship the journals of a `dvc repro` typed by hand until dvc is gone."""

import argparse
import fcntl
import os
import time
from pathlib import Path

from tasks import tracking
from tasks.tracking.runs import RunRecord

EVERY = 2.0  # seconds


def main() -> None:
    """Also `python -m tasks.tracking reconcile`: what every `preflow` command does first."""
    parser = argparse.ArgumentParser(prog="python -m tasks.tracking", description=main.__doc__)
    parser.add_argument("action", choices=("follow", "reconcile"))
    parser.add_argument("run", nargs="?", help="name of the run to follow")
    given = parser.parse_args()
    if given.action == "follow":
        follow(Path.cwd(), given.run)
    tracking.reconcile(Path.cwd())


def follow(root: Path, run_id: str) -> None:
    """Return when the run is over; at once where another process follows it."""
    os.nice(10)
    run = RunRecord.read(root, run_id)
    with (run.folder / "follower.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        while run.folder.exists() and not run.is_over():
            tracking.replay(root, run_id)
            time.sleep(EVERY)


if __name__ == "__main__":
    main()
