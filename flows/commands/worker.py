"""`preflow worker`: stages of other machines' runs, done here, or in containers that it has started."""

from pathlib import Path
from typing import Annotated

import typer

from flows.pools.orders import Type
from flows.stopping import stoppable
from flows.summary import say

HELP = """Take stages off a Prefect work pool and do them until it is ended: here one at a time, or each in a container.

Start it in a checkout of the project that has a git remote and a default DVC remote, with PREFECT_API_URL set to the
server that the runs use. `pools:` in params.yaml says which stages go to which pool. A worker that is ended (Ctrl-C,
SIGTERM) saves the stage that it is at, and another goes on from there. With `--type docker` or `--type kubernetes` it
starts a container or a Job for each stage, which it may leave alone. docs/workers.md tells the whole of it.

[bold]Examples[/bold]

  preflow worker --pool gpu

  CUDA_VISIBLE_DEVICES=1 preflow worker --pool gpu      # one worker a GPU, as many as there are

  preflow worker --pool jobs --type kubernetes --job-variable image=registry.example.org/worker:1 --job-variable gpus=1

  preflow run --set pools.sft=gpu --set pools.rl=gpu    # on the machine of the run
"""


def worker(
    pool: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="the work pool; made if there is none")],
    kind: Annotated[
        Type, typer.Option("--type", help="of the pool: a stage is a process, a container, a Job")
    ] = "process",
    variables: Annotated[
        list[str] | None,
        typer.Option("--job-variable", metavar="NAME=VALUE", show_default=False, help="of the pool's containers"),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="base job template in place of preflow's own"),
    ] = None,
) -> None:
    from flows import workspace
    from flows.pools import serving, templates

    if kind == "process" and (variables or template):
        raise typer.BadParameter("--job-variable and --template are for containers: give --type docker or kubernetes")
    made = {} if kind == "process" else templates.template(kind, template, variables or ())
    with stoppable() as (cancel, begun):
        root = workspace.find_root(Path.cwd())
        begun.set()
        serving.serve(root, pool, kind, made, cancel, say)
