"""`preflow worker`: stages of other machines' runs, done here."""

from pathlib import Path
from typing import Annotated

import typer

from flows.stopping import stoppable
from flows.summary import say

HELP = """Take stages off a Prefect work pool and do them here, one at a time, until it is ended.

Start it in a checkout of the project that has a git remote and a default DVC remote, with PREFECT_API_URL set to the
server that the runs use. `pools:` in params.yaml says which stages go to which pool. A worker that is ended (Ctrl-C,
SIGTERM) saves the stage that it is at, and another goes on from there. docs/workers.md tells the whole of it.

[bold]Examples[/bold]

  preflow worker --pool gpu

  CUDA_VISIBLE_DEVICES=1 preflow worker --pool gpu      # one worker a GPU, as many as there are

  preflow run --set pools.sft=gpu --set pools.rl=gpu    # on the machine of the run
"""


def worker(
    pool: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="the work pool; made if there is none")],
) -> None:
    from flows import workspace
    from flows.pools import serving

    with stoppable() as (cancel, begun):
        root = workspace.find_root(Path.cwd())
        begun.set()
        serving.serve(root, pool, cancel, say)
