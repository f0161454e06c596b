"""What a worker made, taken as if it had been made here: DVC itself restores it, by the note of its run cache."""

import os
import shutil
from pathlib import Path

from flows import dvc, remote
from flows.pools.orders import Answer, Order
from flows.work import Work
from rlhf.errors import DataRefused, PreflowError
from tasks.inside import leads_out


def is_up_to_date(work: Work, stage: str) -> bool:
    """Whether DVC has it done, in dvc.lock or in its run cache: then it puts it in place. It can run nothing."""
    false = shutil.which("false") or "/bin/false"
    tree, patience = work.place.tree, work.patience
    done = dvc.call(tree, "repro", "--single-item", stage, shell=false, patience=patience)
    if done.returncode and "failed to run:" not in done.stderr:
        raise PreflowError(f"dvc could not tell whether {stage} is up to date: {dvc.last_line(done.stderr)}")
    return done.returncode == 0


def forget_forced(work: Work) -> None:
    """Before the first stage, while no dvc is at work: what is to be run again in any case, workers do.

    With an entry in dvc.lock DVC would not look at what they made: it has it done.
    """
    if work.force and (work.place.tree / "dvc.lock").exists():
        for stage in set(work.pools) & set(work.todo):
            dvc.put_entry(work.place.tree, stage, "")


def take(work: Work, order: Order, answer: Answer) -> None:
    """Bring what the worker made, and have DVC keep it.

    Raises:
        DataRefused: it is not what this run would have made.
        DependencyDown: the DVC remote did not give it.
    """
    path, _, text = answer.cached.partition("\n")
    cache = dvc.cache(work.place.owner)
    if len(Path(path).parts) != 3 or leads_out(path):
        raise PreflowError(f"the worker {answer.host} sent {path!r}, which is no entry of a run cache")
    remote.fetch_entry(work.place.owner, order.commit, order.stage, answer.entry, cache)
    note = cache / "runs" / path
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_name(f".{note.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(note)
    if not is_up_to_date(work, order.stage) or dvc.entry(work.place.tree, order.stage) != answer.entry:
        raise DataRefused(
            f"what {order.stage} reads was changed here while {answer.host} worked at it, so its result counts for "
            "nothing; run again"
        )
