"""`preflow plan`."""

import json
import shutil
import sys
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import PROFILE, AsJson, once

HELP = """Say what a run will take before it begins: memory, disk, tokens and time by stage; and what to change to fit.

Worked out from the model's sizes and the lengths of the data in under a second; nothing is loaded. A run does it by \
itself. What stages then took is kept and corrects the next plan. With --exact it is counted by torch, which takes a \
quarter of a minute for the embedded model and minutes for one of 24 blocks. Ends with 1 where something does not fit.

[bold]Examples[/bold]

  preflow plan

  preflow plan --profile qwen3-0.6b-lora --shape 0.5B --gpu 24GB

  preflow plan --shape 8B --set training.dtype=bfloat16 --gpu 80GB --n 8

  preflow plan --shape 1.5B --set training.dtype=bfloat16 --gpu 80GB --exact
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
            "--n", min=1, metavar="N", help="processes, one a GPU: training.nproc, and training.shard but for qlora"
        ),
    ] = None,
    shape: Annotated[
        str, typer.Option("--shape", metavar="NAME", help="0.5B, 1.5B, 8B or 70B instead of the configured model")
    ] = "",
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops",
            min=0.001,
            metavar="RATE",
            help="TFLOP/s of one GPU in training.dtype by its data sheet, for the time of what has not run here",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="count what training keeps, by its own first step on weights without data"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    from flows import profiles, workspace
    from flows.history import seconds_before
    from flows.plan import change, show
    from flows.plan import exact as plan_exact
    from flows.plan import plan as planning
    from flows.plan.card import card_of
    from tasks.config import ConfigError, read_yaml
    from tasks.graph import graph_of

    root = workspace.find_root(Path.cwd())
    named = once("--profile", profile)
    resolved = profiles.resolve(root, named, settings or ())
    graph = graph_of(read_yaml(resolved.dvc_yaml or root / "dvc.yaml"), resolved.values)
    here = not (shape or gpu)
    values = profiles.whole(resolved)
    if count:
        values = change.spread(values, count)
    card = card_of(gpu, values["training"]["nproc"])
    if tflops is not None and not (card.gpu and isfinite(tflops)):
        raise ConfigError(f"--tflops {tflops:g}: expected the rate of a GPU; name its memory too, as --gpu 80GB")

    def planned(**counted: Any) -> planning.Plan:
        return planning.plan(root, graph, values, card, shape, here=here, tflops=tflops, **counted)

    found, counted = planned(), {}
    if exact:
        model = plan_exact.model_of(root, values["base"], found.sizes, shape)
        counted = plan_exact.count(found, graph.stages, values, model, lambda line: print(line, file=sys.stderr))
        found = planned(counted={name: one.terms for name, one in counted.items() if one.terms})
    before = seconds_before(root, graph, resolved.values, named) if here else {}
    if as_json:
        print(json.dumps(show.as_json(found, before, counted), ensure_ascii=False))
    else:
        print("\n".join(show.lines(found, before, counted, shutil.get_terminal_size((120, 24)).columns)))
    raise typer.Exit(0 if found.fits else 1)
