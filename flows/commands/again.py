"""`preflow reproduce` and `preflow diff`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson

DIFF_HELP = """Say why two runs differ: code, parameters, data, environment, stage by stage, with what it came to.

A and B are models (NAME, NAME@champion, NAME/3), runs, or commits of git; without B, the working tree. Only git and \
the DVC cache are read, nothing is run.

[bold]Examples[/bold]

  preflow diff policy@champion

  preflow diff policy/2 policy/3

  preflow diff 20261128-193000-ab12 20261128-201500-cd34 --json
"""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="what it was")],
    b: Annotated[str, typer.Argument(metavar="[B]", show_default=False, help="what it is; default: the checkout")] = "",
    as_json: AsJson = False,
) -> None:
    from rich.console import Console

    from flows import workspace
    from flows.diff import diff as find
    from flows.diff_show import show

    found = find(workspace.find_root(Path.cwd()), a, b)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    console = Console()
    show(found, console if console.is_terminal else Console(width=120, no_color=True))
