"""What `preflow compare` prints: the plan of a dry run, and the table at the end."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.compare.compare import Plan


def show_plan(root: Path, planned: "Plan", as_json: bool) -> None:
    """A line a cell, what is shared, and how long it takes."""
    from flows.compare.outlook import shared, untimed

    todo = {cell.key for cell in planned.todo}
    unknown = untimed(root, planned.todo, planned.by_runs)
    often = shared(planned.cells)
    if as_json:
        cells = [{"name": cell.name, "key": cell.key, "done": cell.key not in todo} for cell in planned.cells]
        told = {"name": planned.name, "report": str(planned.folder(root)), "cells": cells, "stages": often}
        print(json.dumps(told | {"seconds": planned.seconds, "not_timed": unknown}))
        return
    for cell in planned.cells:
        print(f"{cell.name:60} {'to run' if cell.key in todo else 'done'}")
    print()
    for how, names in often.items():
        print(f"{how}: {', '.join(names)}")
    print(f"report: {planned.folder(root)}")
    if unknown:
        print(f"no estimate, as never timed here: {', '.join(unknown)}")
    took = "nothing like it was measured yet" if planned.seconds is None else f"about {planned.seconds / 60:.0f} min"
    print(f"{len(todo)} of {len(planned.cells)} cells to run; {took if todo else 'nothing to do'}")


def show_comparison(found: dict[str, Any]) -> None:
    """The table, as wide as the terminal."""
    from rich.console import Console

    from flows.compare.table import show

    console = Console()
    show(found, console if console.is_terminal else Console(width=160, no_color=True))
