"""`preflow schedule`: retrains that fire by themselves."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import PROFILE, AsJson, once
from flows.commands.retrain import ByHand, Settings, Watch
from flows.stopping import stoppable
from flows.summary import say

app = typer.Typer(no_args_is_help=True, help="Retrains on a schedule: make, list, hold and serve them.")
_Name = Annotated[str, typer.Argument(metavar="NAME", help="`preflow schedule list` has them")]

CREATE_HELP = """Make a schedule, or change the one of that name. `preflow schedule serve` fires it.

[bold]Examples[/bold]

  preflow schedule create --cron "0 3 * * *" --watch /mnt/labels --notify https://hooks.example.org/preflow

  preflow schedule create polite --profile polite --every 6h --approve-by-hand

  preflow schedule create --rrule "FREQ=WEEKLY;BYDAY=MO;BYHOUR=4"
"""


@app.command(help=CREATE_HELP)
def create(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", show_default=False, help="default: by profile and settings")
    ] = "",
    cron: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help='as "0 3 * * *", in UTC')] = "",
    every: Annotated[str, typer.Option(metavar="TIME", show_default=False, help="as 30s, 15m, 6h or 1d")] = "",
    rrule: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="as FREQ=WEEKLY;BYDAY=MO")] = "",
    profile: Annotated[list[str] | None, PROFILE] = None,
    settings: Settings = None,
    watch: Watch = None,
    by_hand: ByHand = False,
    notify: Annotated[
        str, typer.Option(metavar="URL", show_default=False, help="gets a POST with JSON whenever something happened")
    ] = "",
    as_json: AsJson = False,
) -> None:
    from flows.retrain.retrain import Order
    from flows.schedule import schedule

    root = _root()
    order = Order(once("--profile", profile), tuple(settings or ()), tuple(watch or ()), by_hand, name)
    order.resolved(root)  # what is wrong is said now, not at three at night
    _show(schedule.create(root, order, schedule.Slots(cron, every, rrule), notify), as_json)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Schedules, when they fire, and whether somebody serves them."""
    from flows import server, workspace
    from flows.schedule import schedule

    root = workspace.find_root(Path.cwd())
    found = schedule.listed(root, server.up(root).url) if server.was_used(root) else []
    if as_json:
        print(json.dumps(found))
        return
    for one in found:
        _show(one, False)
    if not found:
        print("no schedules; `preflow schedule create --every 6h` makes one")


@app.command()
def pause(name: _Name, as_json: AsJson = False) -> None:
    """Hold a schedule."""
    from flows.schedule import schedule

    _show(schedule.pause(_root(), name, True), as_json)


@app.command()
def resume(name: _Name, as_json: AsJson = False) -> None:
    """Let a schedule go on. Slots of the meantime do not fire."""
    from flows.schedule import schedule

    _show(schedule.pause(_root(), name, False), as_json)


@app.command()
def run(name: _Name, as_json: AsJson = False) -> None:
    """Fire now, besides the slots."""
    from flows.schedule import schedule

    made = schedule.run_now(_root(), name)
    print(json.dumps(made) if as_json else f"{name}: asked for a firing now; `preflow schedule serve` takes it")


@app.command()
def delete(name: _Name) -> None:
    """Take a schedule away. What it retrained stays."""
    from flows.schedule import schedule

    schedule.delete(_root(), name)
    print(f"{name}: deleted")


@app.command()
def serve(
    limit: Annotated[int, typer.Option(min=1, help="firings side by side; further ones wait")] = 1,
) -> None:
    """Fire schedules until Ctrl-C: keeps the Prefect server of this project up, and a worker beside it.

    Run it under systemd, or whatever keeps services here. What came due while it was away fires once.
    """
    from flows import workspace
    from flows.schedule import serve as schedule_serve

    root = workspace.find_root(Path.cwd())
    with stoppable() as (cancel, begun):
        begun.set()
        schedule_serve.serve(root, limit, cancel, say)


def _root() -> Path:
    """The checkout, with its Prefect server up."""
    from flows import server, workspace

    root = workspace.find_root(Path.cwd())
    server.up(root)
    return root


def _show(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(one))
        return
    about = [*one["slots"], *filter(None, [one["profile"], *(one["settings"] or ())])]
    about += [f"watches {folder}" for folder in one["watch"] or ()] + ["approved by hand"] * bool(one["by_hand"])
    about += ["tells a webhook"] * bool(one["notify"])
    state = "paused" if one["paused"] else "served" if one["served"] else "not served: `preflow schedule serve`"
    print(f"{one['name']:20} {'; '.join(about)}; {state}")
