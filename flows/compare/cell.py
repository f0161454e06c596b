"""One cell of a comparison, a process of its own: `python -m flows.compare.cell ROOT JOB`, where JOB is a JSON file.

It is an ordinary run of the cell's own graph and parameters, in a worktree, on a ref. What other cells share is kept
stage by stage, the results at the end, before the worktree goes.
"""

import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import environment, launch
from flows.compare import store
from flows.compare.graph import signatures
from flows.compare.grid import Cell, outside
from flows.request import Report, Start, Wish
from rlhf.errors import Preempted, PreflowError
from tasks.config import read_yaml
from tasks.graph import load_graph
from tasks.outcome import StageResult


def job(cell: Cell, start: Start, profile: str, command: str) -> dict[str, Any]:
    """What `main` reads."""
    return {"cell": asdict(cell), "start": asdict(start), "profile": profile, "command": command}


def run(root: Path, asked: dict[str, Any], cancel: threading.Event, begun: threading.Event) -> Report:
    """Run the cell and keep what came of it.

    Raises:
        PreflowError: as `launch.run`, or what the cell read changed while the comparison went on.
    """
    cell, start = Cell(**asked["cell"]), Start(**asked["start"])
    wish = Wish(
        profile=asked["profile"], settings=tuple(cell.settings), promote=False, command=asked["command"], start=start
    )

    def ended(stage: StageResult, tree: Path) -> None:
        store.keep_entry(root, cell, stage, tree)

    def show(report: Report, tree: Path) -> None:
        if report.exit_code == 0:
            store.keep_result(root, cell, report, tree)

    def hold(tree: Path) -> None:
        _hold(cell, tree, with_inbox=not start.own_sources)

    return launch.run(root, wish, cancel, show=show, say=_say, on_begin=begun.set, on_tree=hold, on_result=ended)


def _hold(cell: Cell, tree: Path, with_inbox: bool) -> None:
    """Nothing of another code or other data goes under this cell's key, nor under that of one of its stages."""
    params = read_yaml(tree / "params.yaml")
    found = signatures(load_graph(tree), params, outside(tree, params, with_inbox))
    other = [name for name, signature in cell.signatures.items() if found.get(name) != signature]
    if other:
        raise PreflowError(
            f"what stage {other[0]} reads was changed while the comparison went on; give the same command again"
        )


def main() -> None:
    """The report goes beside JOB, as `<job>.report.json`; where there is none, the last line says why."""
    environment.set_defaults()
    cancel, begun = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        if not begun.is_set():
            raise Preempted("stopped")
        threading.Thread(target=cancel.set).start()  # not here: this very thread may hold the event's lock

    signal.signal(signal.SIGTERM, stop)
    root, path = map(Path, sys.argv[1:3])
    try:
        report = run(root, json.loads(path.read_text(encoding="utf-8")), cancel, begun)
        store.write(path.with_suffix(".report.json"), asdict(report))
    except PreflowError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    sys.exit(report.exit_code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
