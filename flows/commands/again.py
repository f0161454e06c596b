"""`preflow reproduce` and `preflow diff`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.stopping import stoppable
from flows.summary import say

DIFF_HELP = """Say why two runs differ: code, parameters, data, environment, stage by stage, with what it came to.

A and B are models (NAME, NAME@champion, NAME/3), runs, or commits of git; without B, the working tree. Only git and \
the DVC cache are read, nothing is run.

[bold]Examples[/bold]

  preflow diff policy@champion

  preflow diff policy/2 policy/3

  preflow diff 20261128-193000-ab12 20261128-201500-cd34 --json
"""


REPRODUCE_HELP = """Restore a model's run and prove it byte for byte; with --rerun, train it again and compare.

WHAT is a model (NAME, NAME@champion, NAME/3), a run, or a commit of git; git and the DVC remote are enough, MLflow is \
not asked. It happens in a worktree of its own. Ends with 0 where all is equal, with 1 where something differs or is \
missing.

[bold]Examples[/bold]

  preflow reproduce policy@champion

  preflow reproduce policy/3 --rerun

  preflow reproduce 20261128-193000-ab12 --rerun --stage sft --keep
"""


def reproduce(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="policy@champion, policy/3, a run, a commit")],
    rerun: Annotated[
        bool, typer.Option("--rerun", metavar="", help="run every stage from nothing, no cache, no checkpoint")
    ] = False,
    stage: Annotated[str, typer.Option(metavar="STAGE", show_default=False, help="this stage alone")] = "",
    keep: Annotated[bool, typer.Option("--keep", metavar="", help="keep the worktree, and say where it is")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import workspace
    from flows.reproduce.reproduce import Asked
    from flows.reproduce.reproduce import reproduce as do_again
    from flows.reproduce.show import show

    root = workspace.find_root(Path.cwd())
    with stoppable() as (cancel, begun):
        answer = do_again(root, Asked(what, rerun, stage, keep), cancel, say, begun.set)
    if as_json:
        print(json.dumps(asdict(answer), ensure_ascii=False), flush=True)
    else:
        show(answer)
    raise typer.Exit(answer.exit_code)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="what it was")],
    b: Annotated[str, typer.Argument(metavar="[B]", show_default=False, help="what it is; default: the checkout")] = "",
    as_json: AsJson = False,
) -> None:
    from rich.console import Console

    from flows import workspace
    from flows.diff.diff import diff as find
    from flows.diff.show import show

    say(f"comparing {a} with {b or 'the working tree'} …")
    found = find(workspace.find_root(Path.cwd()), a, b)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    console = Console()
    show(found, console if console.is_terminal else Console(width=120, no_color=True))
