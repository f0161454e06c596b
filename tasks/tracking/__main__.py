"""`python -m tasks.tracking follow RUN`: ship the journals of a `dvc repro` typed by hand until dvc is gone."""

import argparse
import fcntl
import gc
import os
import select
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from tasks import tracking
from tasks.journal import home
from tasks.tracking.boundary import GAVE_UP, PATIENCE
from tasks.tracking.runs import RunRecord
from tasks.tracking.store import connect

EVERY = 2.0  # seconds
LONGEST = 3600.0
"""Seconds in which a process that nobody waits for tells what is left of earlier runs."""


def main() -> None:
    """Also `reconcile`: what every `preflow` command does first; and `keep RUN`: see `tasks.tracking.keep`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.tracking", description=main.__doc__)
    parser.add_argument("action", choices=("follow", "keep", "reconcile"))
    parser.add_argument("run", nargs="?", help="name of the run to follow")
    parser.add_argument("--gently", action="store_true", help="give way to other processes")
    given = parser.parse_args()
    if given.gently:
        os.nice(10)
    if given.action == "follow":
        follow(Path.cwd(), given.run)
    if given.action == "keep":
        keep(Path.cwd(), given.run)
    tracking.tell_old(Path.cwd(), LONGEST)
    gc.freeze()  # a run waits for our end, before which Python would go through all of MLflow once more


def keep(root: Path, run_id: str) -> None:
    """Return when standard input ends, with all of the run told; an end that nobody tells is left to `reconcile`."""
    threading.Thread(target=_give_up_after_the_run, daemon=True).start()
    with suppress(Exception):  # said where it matters
        connect(root)
    tracking.tell_old(root, PATIENCE)
    folder = home(root) / "journal" / run_id
    while not select.select([sys.stdin], [], [], EVERY)[0]:
        if (folder / "run.json").exists():
            tracking.replay(root, run_id)


def _give_up_after_the_run() -> None:
    """Where MLflow hangs, this process holds the lock that the next command waits for."""
    select.select([sys.stdin], [], [])
    time.sleep(PATIENCE)
    os._exit(GAVE_UP)


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
            os.utime(lock.fileno())  # other machines see by it that this run goes on
            tracking.replay(root, run_id)
            time.sleep(EVERY)


if __name__ == "__main__":
    main()
