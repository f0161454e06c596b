"""`preflow ui`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

HELP = """MLflow's and Prefect's pages on this machine, until Ctrl-C; runs started beside it appear in both.

Both listen on 127.0.0.1 alone. A server that MLFLOW_TRACKING_URI or PREFECT_API_URL names is shown, not started.

[bold]Examples[/bold]

  preflow ui

  preflow ui --port 5001 --prefect-port 4201
"""


def ui(
    port: Annotated[int, typer.Option(help="of MLflow", min=1, max=65535)] = 5000,
    prefect_port: Annotated[
        int | None, typer.Option(help="of Prefect; default: 4200", min=1, max=65535, show_default=False)
    ] = None,
) -> None:
    from flows import ui, workspace
    from flows.stopping import stoppable
    from flows.summary import say
    from rlhf.errors import Preempted

    root = workspace.find_root(Path.cwd())
    with stoppable() as (cancel, begun):
        begun.set()
        say("starting MLflow and Prefect …")
        with suppress(Preempted):  # while it waited for a server
            ui.serve(root, port, prefect_port, cancel, say)
