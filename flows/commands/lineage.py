"""`preflow lineage`, `preflow withdraw` and `preflow prune`: what came of what, and taking it out again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.summary import say

LINEAGE_HELP = """Where something comes from, and what was made of it.

X is a registered model (policy, policy@champion, policy/3), a run, an out (data/05_sft/policy, or its md5), a file of \
data/inbox, or rows: `row:ID` (every row has an `id`), `annotator:NAME`, `source:NAME`. Of rows it says which versions \
of the data they are in and what the gate said of them, which models were trained on them or built on such, and which \
registered versions that makes. It is read from the refs of runs, dvc.lock and the DVC cache.

[bold]Examples[/bold]

  preflow lineage policy@champion

  preflow lineage row:4be1c27a90d35f68 --svg row.svg

  preflow lineage annotator:ada --down --json
"""


def lineage(
    x: Annotated[str, typer.Argument(metavar="X", show_default=False, help="model, run, out, md5, file or rows")],
    up: Annotated[bool, typer.Option("--up", metavar="", help="only what it was made from")] = False,
    down: Annotated[bool, typer.Option("--down", metavar="", help="only what was made of it")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="a page of it, drawn")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="the picture alone")] = None,
    as_json: AsJson = False,
) -> None:
    from flows import lineage_picture, workspace
    from flows.lineage import lineage as ask
    from flows.lineage import told
    from flows.lineage_show import show

    both = up == down
    found = ask(workspace.find_root(Path.cwd()), x, say).kept(up or both, down or both)
    for path in filter(None, (svg, html)):
        lineage_picture.write(found, path)
        say(f"drawn in {path}")
    if as_json:
        print(json.dumps(told(found), ensure_ascii=False))
    else:
        show(found, up or both, down or both)
