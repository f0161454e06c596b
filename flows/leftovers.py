"""Flow runs that a kill left "Running" in Prefect: told what became of them when the next run starts."""

from contextlib import suppress
from pathlib import Path

from flows.prefect_api import ask
from tasks.journal import home
from tasks.tracking.runs import RunRecord

MOST = 50  # flow runs looked at in one go


def mark_crashed(root: Path, url: str) -> list[str]:
    """Set unfinished flow runs to Crashed where they are runs of this project whose process is gone; their names.

    Quiet when Prefect does not answer: this is for the look of its pages only.
    """
    marked = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        unfinished = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}, "limit": MOST}
        for found in ask(f"{url}/flow_runs/filter", unfinished):
            if _is_over(root, str(found["name"])):
                state = {"type": "CRASHED", "name": "Crashed", "message": "its process is gone"}
                ask(f"{url}/flow_runs/{found['id']}/set_state", {"state": state, "force": True})
                marked.append(str(found["name"]))
    return marked


def _is_over(root: Path, run: str) -> bool:
    """Whether this is a run of ours, and has ended."""
    if "/" in run or not (home(root) / "journal" / run / "run.json").exists():
        return False
    return RunRecord.read(root, run).is_over()
