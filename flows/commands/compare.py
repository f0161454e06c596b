"""`preflow compare`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import PROFILE, AsJson, once, words
from flows.stopping import stoppable
from flows.summary import say

HELP = """Compare algorithms and settings over seeds: one table, with intervals.

Every combination is a run of its own; what they share runs once. What is done is never run again: \
give the same command after a stop, or a longer one, and only what is missing runs. Nothing is promoted.

[bold]Examples[/bold]

  preflow compare --algorithm ppo,grpo,dpo,ipo --seeds 3

  preflow compare --algorithm rloo --lr 5e-4,1e-3,2e-3

  preflow compare --algorithm ppo,rloo --seeds 0,3,7 --set rl.kl_coef=0.02,0.05 --name leash

  preflow compare --algorithm grpo --set 'algorithms.grpo.group_size=4,8,16' --dry-run
"""


def compare(
    algorithm: Annotated[
        list[str], typer.Option("--algorithm", metavar="NAME[,NAME…]", help="blocks of `algorithms`; repeatable")
    ],
    seeds: Annotated[
        list[str] | None, typer.Option(metavar="N|S,S…", help="how many from 0 on, or which; default: 1")
    ] = None,
    profile: Annotated[list[str] | None, PROFILE] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE[,VALUE…]", help="values to try, or one for all; repeatable"),
    ] = None,
    rates: Annotated[
        list[str] | None,
        typer.Option("--lr", metavar="RATE[,RATE…]", help="learning rates, of each cell's own algorithm; repeatable"),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="the stage to vary; default: the last one that has the algorithm"),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="folder of the report in reports/compare; default: algorithms and a digest"),
    ] = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="print what would run, what is done and how long it takes")
    ] = (False),
) -> None:
    from flows import workspace
    from flows.compare import compare as comparing
    from flows.compare.grid import Asked, parse_seeds
    from flows.compare.show import show_comparison, show_plan

    asked = Asked(
        algorithms=words(algorithm),
        seeds=parse_seeds(once("--seeds", seeds, "1")),
        profile=once("--profile", profile),
        settings=tuple(settings or ()),
        rates=words(rates or []),
        stage=once("--stage", stage),
        name=once("--name", name),
        command=shlex.join(["preflow", *sys.argv[1:]]),
    )
    root = workspace.find_root(Path.cwd())
    planned = comparing.plan(root, asked, say)
    if dry_run:
        show_plan(root, planned, as_json)
        return
    with stoppable() as (cancel, begun):
        begun.set()
        found = comparing.run(root, planned, cancel, say)
    if as_json:
        print(json.dumps(found, ensure_ascii=False), flush=True)
    else:
        show_comparison(found)
        print(f"report: {planned.folder(root)}")
    raise typer.Exit(0 if all(cell["state"] == "done" for cell in found["cells"]) else 1)
