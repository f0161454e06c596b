"""`preflow report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson

HELP = """The report of a run: one HTML page that needs neither network nor server. Prints where it is.

RUN is a run (20261128-193000-ab12), a promoted model (policy, policy/3, policy@champion) or a ref of refs/preflow/; \
without it, the last run of this clone. Every run writes its page when it ends; where the page is not there any more, \
it is made again from the run's git ref and the DVC cache.

[bold]Examples[/bold]

  preflow report

  preflow report policy@champion --open
"""


def report(
    run: Annotated[str, typer.Argument(metavar="[RUN]", show_default=False, help="a run, or policy/3")] = "",
    open_it: Annotated[bool, typer.Option("--open", metavar="", help="show it in the browser")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import workspace
    from flows.page import page

    name, path, made = page.find(workspace.find_root(Path.cwd()), run)
    if as_json:
        print(json.dumps({"run": name, "page": str(path), "made_again": made}))
    else:
        print(path)
    if open_it:
        typer.launch(path.as_uri())
