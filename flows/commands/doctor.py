"""`preflow doctor`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson
from flows.summary import say
from rlhf.errors import PreflowError

if TYPE_CHECKING:
    from flows.doctor import Ailment

HELP = """Say what is the matter with the installation and the project; with --fix, mend it.

Packages that are missing or clash, files that cannot be read, room on the disk, locks and runs of dead processes, \
half written checkpoints, servers that do not answer, DVC remotes that are taken at their word. Nothing is changed \
without --fix. Ends with 0 where nothing is left to mend, else with 1.

[bold]Examples[/bold]

  preflow doctor

  preflow doctor --fix

  preflow doctor --json
"""


def doctor(
    fix: Annotated[bool, typer.Option("--fix", metavar="", help="mend what can be mended here")] = False,
    as_json: AsJson = False,
) -> None:
    from flows import workspace
    from flows.doctor import CHECKS, look

    root = workspace.find_root(Path.cwd())
    told: list[dict[str, object]] = []
    for name, check in CHECKS.items():
        ailments = look(root, check)
        if not ailments and not as_json:
            print(f"{name:12} in order")
        for one in ailments:
            mended = fix and _mend(one) and one.what not in {still.what for still in look(root, check)}
            told.append({"check": name, "what": one.what, "cure": one.cure, "mended": mended})
            if not as_json:
                print(f"{name:12} {one.what}\n{'':12} {_outlook(one, mended)}")
    left = sum(not one["mended"] for one in told)
    if as_json:
        print(json.dumps({"ailments": told, "left": left}, ensure_ascii=False))
    raise typer.Exit(1 if left else 0)


def _mend(one: "Ailment") -> bool:
    if one.mend is None:
        return False
    try:
        one.mend()
    except PreflowError as error:
        say(f"not mended: {error}")
        return False
    return True


def _outlook(one: "Ailment", mended: bool) -> str:
    if mended:
        return "mended"
    return f"{one.cure}{'; --fix does it' if one.mend else ''}"
