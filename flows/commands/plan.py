"""`preflow plan`."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import PROFILE, AsJson, once

HELP = """Say what a run will take before it begins: memory by stage, disk, tokens; and what to change to make it fit.

Worked out from the model's sizes and the lengths of the data in under a second; nothing is loaded. A run does it by \
itself. What stages then took is kept and corrects the next plan. Ends with 1 where something does not fit.

[bold]Examples[/bold]

  preflow plan

  preflow plan --profile qwen3-0.6b-lora --shape 0.5B --gpu 24GB

  preflow plan --shape 8B --set training.dtype=bfloat16 --gpu 80GB --n 8
"""


def plan(
    profile: Annotated[list[str] | None, PROFILE] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one value over everything; repeatable")
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="SIZE", help="memory of a GPU, as 24GB; else what this machine has")
    ] = "",
    count: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, metavar="N", help="processes, one a GPU: training.nproc, and training.shard if full"
        ),
    ] = None,
    shape: Annotated[
        str, typer.Option("--shape", metavar="NAME", help="0.5B, 1.5B, 8B or 70B instead of the configured model")
    ] = "",
    as_json: AsJson = False,
) -> None:
    from flows import plan as planning
    from flows import plan_show, profiles, workspace
    from flows.history import seconds_before
    from flows.plan_card import card_of
    from tasks.config import read_yaml
    from tasks.graph import graph_of

    root = workspace.find_root(Path.cwd())
    named = once("--profile", profile)
    resolved = profiles.resolve(root, named, settings or ())
    graph = graph_of(read_yaml(resolved.dvc_yaml or root / "dvc.yaml"), resolved.values)
    here = not (shape or gpu)
    values = profiles.whole(resolved)
    if count:
        values = planning.spread(values, count)
    found = planning.plan(root, graph, values, card_of(gpu, values["training"]["nproc"]), shape, here=here)
    before = seconds_before(root, graph, resolved.values, named) if here else {}
    if as_json:
        print(json.dumps(plan_show.as_json(found, before), ensure_ascii=False))
    else:
        print("\n".join(plan_show.lines(found, before, shutil.get_terminal_size((120, 24)).columns)))
    raise typer.Exit(0 if found.fits else 1)
