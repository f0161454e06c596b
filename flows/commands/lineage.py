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
    from flows import workspace
    from flows.lineage import picture
    from flows.lineage.lineage import lineage as ask
    from flows.lineage.nodes import told
    from flows.lineage.show import show

    both = up == down
    found = ask(workspace.find_root(Path.cwd()), x, say).kept(up or both, down or both)
    for path in filter(None, (svg, html)):
        picture.write(found, path)
        say(f"drawn in {path}")
    if as_json:
        print(json.dumps(told(found), ensure_ascii=False))
    else:
        show(found, up or both, down or both)


WITHDRAW_HELP = """Take rows out of all that is made from now on, and say what was made of them.

One of --source, --annotator and --row says which. What they touched is listed: versions of the data, models to \
retire, registered versions, and whether the champion is among them. Then `withdraw` of params.yaml names them, and \
the data is made and judged again without them; the next `preflow run` trains on that. --purge deletes what holds the \
rows, in the DVC cache, in remotes that are folders, in journals and in MLflow's artifacts, and says which runs can \
not be made again. Exit code 3: what is left does not pass the gate.

[bold]Examples[/bold]

  preflow withdraw --annotator ada

  preflow withdraw --row 4be1c27a90d35f68 --purge --yes

  preflow withdraw --source forum --dry-run --json
"""


def withdraw(
    source: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="all rows of a source")] = "",
    annotator: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="all that a person judged")] = "",
    row: Annotated[str, typer.Option(metavar="ID", show_default=False, help="one row by its id")] = "",
    purge: Annotated[bool, typer.Option("--purge", metavar="", help="delete what holds the rows")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="only say what they touched")] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="with --purge: do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import objects, workspace
    from flows.lineage.rows import Wanted
    from flows.withdraw import purge as withdraw_purge
    from flows.withdraw import show as withdraw_show
    from flows.withdraw import withdraw as work
    from tasks.config import ConfigError

    given = {"source": source, "annotator": annotator, "row": row}
    named = [f"{kind}:{value}" for kind, value in given.items() if value]
    wanted = Wanted.parse(named[0]) if len(named) == 1 else None
    if wanted is None:
        raise ConfigError(f"give one of --source, --annotator and --row, found {len(named)}")
    root = workspace.find_root(Path.cwd())
    if purge:
        objects.refuse_if_busy(root)
    facts = work.touched_by(root, wanted, say)
    if not as_json:
        withdraw_show.touched(facts)
    if dry_run:
        if as_json:
            print(json.dumps(work.told(facts, None), ensure_ascii=False))
        return
    if purge and not yes:
        _ask(withdraw_show.warning(facts))
    purged = None
    if purge:
        done, facts, purged = work.carry_out_and_purge(root, wanted, say)
    else:
        done = work.carry_out(root, wanted, say)
    if as_json:
        extra = {"purged": purged.__dict__, "lost": withdraw_purge.lost(facts)} if purged else {}
        print(json.dumps(work.told(facts, done) | extra, ensure_ascii=False))
        return
    withdraw_show.done(facts, done, purged)


PRUNE_HELP = """Remove old runs: their refs, what only they need of the DVC cache, worktrees, journals and reports.

Runs that made a registered version stay, and so does the one whose dvc.lock the checkout has; what a branch, a tag or \
a worktree names stays too. MLflow keeps its record, and DVC remotes keep what was pushed.

[bold]Examples[/bold]

  preflow prune --older-than 30d --dry-run

  preflow prune --keep 10 --yes

  preflow prune --keep 0 --profile polite
"""


def prune(
    older_than: Annotated[str, typer.Option(metavar="AGE", show_default=False, help="30d, 12h or 4w")] = "",
    keep: Annotated[int | None, typer.Option(min=0, show_default=False, help="all but the newest N")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help='only its runs; "" for those without')
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="only say what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import prune as work
    from flows import workspace
    from flows.objects import told_size

    root = workspace.find_root(Path.cwd())
    plan = work.plan(root, older_than, keep, profile, say)
    if not as_json:
        print("\n".join(work.lines(plan)))
    if not dry_run and plan.runs:
        if not yes:
            _ask("remove them?")
        plan, freed = work.carry_out(root, plan)
        if not as_json:
            print(f"removed {len(plan.runs)} runs; {told_size(freed)} more are free on this disk")
    if as_json:
        print(json.dumps(work.told(plan) | {"removed": not dry_run}))


def _ask(question: str) -> None:
    """Raises PreflowError where nobody says yes."""
    import sys

    from rlhf.errors import PreflowError

    if not sys.stdin.isatty():
        raise PreflowError(f"{question} Nobody is there to say yes: give --yes")
    if not typer.confirm(question, err=True):
        raise PreflowError("nothing was changed")
