"""`preflow verify`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson
from flows.summary import say

if TYPE_CHECKING:
    from flows.verify import Found, Wrong
    from flows.verify_mend import Mended

HELP = """Hash everything that the last run stands on, and say what is damaged; with --fix, mend it.

Outputs, what they were made of, the objects of the DVC cache, checkpoints of stages that were cut short, and the \
promoted versions of the registry, each to its last byte. --fix takes a good copy where there is one (working copy, \
cache, DVC remote) and runs the stage again where there is none. Ends with 0 where all is as it should be, else with 1.

[bold]Examples[/bold]

  preflow verify

  preflow verify --fix

  preflow verify --json
"""


def verify(
    fix: Annotated[bool, typer.Option("--fix", metavar="", help="mend what is damaged")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import verify as work
    from flows import verify_mend, workspace
    from flows.busy import busy

    root = workspace.find_root(Path.cwd())
    with busy("hashing outputs, cache and checkpoints"):
        found = work.verify(root)
    done: Mended = {}
    left = found
    if fix and found.wrong:
        done = verify_mend.mend(root, found, say)
        if again := verify_mend.to_run_again(root, found, done):
            done |= _run_again(root, again)
        with busy("hashing everything once more"):
            left = work.verify(root)
            left.wrong += [one for one in found.wrong if one not in done and not (root / one.where).exists()]
    if as_json:
        print(json.dumps(work.as_json(found, done) | {"left": len(left.wrong)}, ensure_ascii=False))
    else:
        _show(found, done, left, fix)
    raise typer.Exit(1 if left.wrong else 0)


def _run_again(root: Path, again: "list[Wrong]") -> "Mended":
    """Run the stages whose outputs nothing has whole; nothing where the run would do more than that."""
    from flows import launch, verify_mend
    from flows.request import Wish
    from flows.stopping import stoppable

    if not verify_mend.nothing_else(root, again):
        names = ", ".join(one.where for one in again)
        say(f"parameters, code or inputs have changed since: remove {names}, and `preflow run` makes that with them")
        return {}
    verify_mend.forget(root, again)
    with stoppable() as (cancel, begun):
        wish = Wish(promote=False, command="preflow verify --fix")
        launch.run(root, wish, cancel, say=say, show=lambda *_: None, on_begin=begun.set)
    return {one: f"made again by stage {one.stage}" for one in again if (root / one.where).exists()}


def _show(found: "Found", done: "Mended", left: "Found", fix: bool) -> None:
    from flows.objects import told_size

    for one in found.wrong:
        of = f" (stage {one.stage})" if one.stage else ""
        print(f"{one.kind} {one.where}{of} {one.why}" + (f": {done[one]}" if one in done else ""))
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
