"""`preflow verify`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson
from flows.summary import say

if TYPE_CHECKING:
    from flows.verify.found import Found, Wrong

HELP = """Hash everything that a run stands on, and say what is damaged; with --fix, mend it.

Outputs, what they were made of, the objects of the DVC cache, checkpoints of stages that were cut short, journal, \
report, artifacts in MLflow and the digests that MLflow has of the run, and the promoted versions of the registry, \
each to its last byte. With RUN, what the cache and the records have of a past run. --fix takes a good copy where \
there is one (working copy, cache, DVC remote, the source of an input) and runs the stage again where there is none. \
Ends with 0 where all is as it should be, else with 1; what was pruned or withdrawn is named as missing, not as damage.

[bold]Examples[/bold]

  preflow verify

  preflow verify --fix

  preflow verify 20261128-193000-ab12

  preflow verify policy/3 --json
"""


def verify(
    run: Annotated[str, typer.Argument(metavar="[RUN]", show_default=False, help="a run, or policy/3")] = "",
    fix: Annotated[bool, typer.Option("--fix", metavar="", help="mend what is damaged")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import workspace
    from flows.busy import counting
    from flows.verify import mend
    from flows.verify import verify as work
    from flows.verify.found import as_json as told

    root = workspace.find_root(Path.cwd())
    with counting("hashing") as count:
        found = work.verify(root, run, count)
    done: dict[Wrong, str] = {}
    left = found
    if fix and found.wrong:
        with counting("hashing once more, while no run can begin") as count:
            mending = mend.mend(root, run, count, say)
        found, done = mending.found, mending.done
        if mending.forgotten:
            done |= _run_again(root, mending.forgotten)
        with counting("hashing what is there now") as count:
            left = work.verify(root, run, count)
        gone = [one for one in found.wrong if one.kind == "output" and one not in done]
        left.wrong += [one for one in gone if not (root / one.where).exists() and one not in left.wrong]
    if as_json:
        print(json.dumps(told(found, done) | {"left": len(left.wrong)}, ensure_ascii=False))
    else:
        _show(found, done, left, fix)
    raise typer.Exit(1 if left.wrong else 0)


def _run_again(root: Path, again: "list[Wrong]") -> "dict[Wrong, str]":
    """Run the stages whose outputs nothing had whole, and which were taken away."""
    from flows import launch
    from flows.request import Wish
    from flows.stopping import stoppable

    with stoppable() as (cancel, begun):
        wish = Wish(promote=False, command="preflow verify --fix")
        launch.run(root, wish, cancel, say=say, show=lambda *_: None, on_begin=begun.set)
    return {one: f"made again by stage {one.stage}" for one in again if (root / one.where).exists()}


def _show(found: "Found", done: "dict[Wrong, str]", left: "Found", fix: bool) -> None:
    from flows.objects import told_size

    for one in found.wrong:
        of = f" (stage {one.stage})" if one.stage else ""
        print(f"{one.kind} {one.where}{of} {one.why}" + (f": {done[one]}" if one in done else ""))
    for one in found.missing:
        print(f"missing: {one.kind} {one.where}{f' (stage {one.stage})' if one.stage else ''} {one.why}")
    for note in found.notes:
        print(note)
    looked = f"{found.files} files, {told_size(found.size)}"
    if not found.wrong:
        print(f"all is as it should be: {looked} hashed")
    elif not left.wrong:
        print(f"{len(found.wrong)} of {looked} were wrong, all is as it should be now")
    else:
        todo = "nothing here or on a remote has them whole" if fix else "`preflow verify --fix` mends what it can"
        print(f"{len(left.wrong)} things are wrong ({looked} hashed): {todo}")
