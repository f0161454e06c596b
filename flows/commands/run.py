"""`preflow run`."""

import json
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import PROFILE, AsJson, once
from flows.stopping import stoppable
from flows.summary import say, summary

HELP = """Run the pipeline: what is unchanged is not run again.

A run with a profile or settings works in a worktree of its own and is kept as a git ref: your files stay as they are.

[bold]Examples[/bold]

  preflow run

  preflow run --set rl.kl_coef=0.05 --set seed=1

  preflow run --profile polite --json
"""


def run(
    profile: Annotated[list[str] | None, PROFILE] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one value over everything; repeatable")
    ] = None,
    as_json: AsJson = False,
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote", metavar="", help="default: promote, but not a run with --set", show_default=False
        ),
    ] = None,
    require_promotion: Annotated[
        bool, typer.Option("--require-promotion", metavar="", help="end with 4 when nothing is promoted")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", metavar="", help="run every stage, also unchanged ones, from nothing")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", metavar="", help="keep the worktree of a run with a profile or settings")
    ] = False,
    planned: Annotated[
        bool, typer.Option("--plan/--no-plan", metavar="", help="refuse what cannot fit before it begins")
    ] = True,
) -> None:
    from flows import launch, workspace
    from flows.request import Wish

    wish = Wish(
        profile=once("--profile", profile),
        settings=tuple(settings or ()),
        promote=promote,
        require_promotion=require_promotion,
        rerun=rerun,
        keep=keep,
        planned=planned,
        command=shlex.join(["preflow", *sys.argv[1:]]),
    )
    root = workspace.find_root(Path.cwd())
    show = partial(summary, root, to_stdout=not as_json)
    with stoppable() as (cancel, begun):
        report = launch.run(root, wish, cancel, say=say, show=show, on_begin=begun.set)
    if as_json:
        print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
    raise typer.Exit(report.exit_code)
