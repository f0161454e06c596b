"""`preflow retrain`, `preflow promote` and `preflow rollback`: who serves, and how that changes."""

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import PROFILE, AsJson, once
from flows.stopping import stoppable
from flows.summary import say, summary

HELP = """Retrain now, if something is new: data, parameters or code since the last time.

New shards in data/inbox and in watched folders, DVC imports under data/imports that have moved, and sources that \
params name, on a hub too, become a new data version; what that touches runs; the gate compares with the champion, and \
what passes is promoted and sent to the remotes. Ends at once where nothing is new.

[bold]Examples[/bold]

  preflow retrain

  preflow retrain --watch /mnt/labels --approve-by-hand

  preflow retrain --profile polite --json
"""

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one value over everything; repeatable")
]
Watch = Annotated[
    list[str] | None,
    typer.Option("--watch", metavar="FOLDER", help="new shards in FOLDER/<kind>/ go to data/inbox; repeatable"),
]
ByHand = Annotated[
    bool, typer.Option("--approve-by-hand", metavar="", help="what passes the gate waits for `preflow promote RUN`")
]


def retrain(
    profile: Annotated[list[str] | None, PROFILE] = None,
    settings: Settings = None,
    watch: Watch = None,
    by_hand: ByHand = False,
    as_json: AsJson = False,
) -> None:
    from flows import workspace
    from flows.retrain import Order, fire

    root = workspace.find_root(Path.cwd())
    order = Order(once("--profile", profile), tuple(settings or ()), tuple(watch or ()), by_hand)
    with stoppable() as (cancel, begun):
        show = partial(summary, root, to_stdout=not as_json)
        outcome = fire(root, order, cancel, say=say, show=show, on_begin=begun.set)
    if as_json:
        print(json.dumps(asdict(outcome), ensure_ascii=False), flush=True)
    else:
        print(f"retrain: {outcome.message}")
    raise typer.Exit(outcome.exit_code)


PROMOTE_HELP = """Make the policy of a kept run the champion: register it, move the alias, send bytes and refs.

What the gate refused is refused here, unless --force says why, which is kept as a tag of the version. A retrain that \
waits for a person is answered so, or with --refuse. A run that is the champion already is only sent.

[bold]Examples[/bold]

  preflow promote 20261128-193000-ab12

  preflow promote 20261128-193000-ab12 --refuse --reason "answers got too short"

  preflow promote 20261128-193000-ab12 --candidate dpo --force "compared by hand"
"""


def promote(
    run: Annotated[str, typer.Argument(metavar="RUN", help="as the last lines of a run name it")],
    candidate: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="default: the policy that the gate judged")
    ] = "",
    refuse: Annotated[bool, typer.Option("--refuse", metavar="", help="of a run that waits: no")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="of an answer, for the record")] = "",
    force: Annotated[
        str, typer.Option(metavar="REASON", show_default=False, help="promote although the gate does not say so")
    ] = "",
    as_json: AsJson = False,
) -> None:
    from flows import promotion, retrain, schedule, server, workspace
    from tasks.config import ConfigError

    root = workspace.find_root(Path.cwd())
    waits = retrain.waiting(root, run=run)
    if refuse and not waits:
        raise ConfigError(f"--refuse: run {run} does not wait for an answer")
    if waits and not force and not candidate:
        if waits["flow_run"]:
            server.start(root)
            schedule.answer(waits["flow_run"], not refuse, reason)
            reply = "answered; the firing that waits goes on with it"
            done: dict[str, Any] = {"promoted": False, "run": run, "reason": reply}
        else:
            outcome = retrain.decide(root, run, not refuse, reason, say)
            done = {"promoted": not refuse, "run": run, "reason": outcome.message} | outcome.report["promotion"]
    else:
        done = promotion.promote(root, run, candidate, force, say)
    if as_json:
        print(json.dumps(done))
        return
    sent = done.get("unsent") or (f"sent to {', '.join(done['pushed'])}" if done.get("pushed") else "")
    print("; ".join(filter(None, [str(done["reason"]), sent])))


ROLLBACK_HELP = """Put the champion back to the version before, or to the one that is named; forward again likewise.

Its files are read and proven whole first, and fetched from the DVC remote where the cache lacks them. A run after a \
rollback does not promote the newer version again: name it here to bring it back.

[bold]Examples[/bold]

  preflow rollback

  preflow rollback policy/3

  preflow rollback policy-pretrained --json
"""


def rollback(
    model: Annotated[
        str, typer.Argument(metavar="[NAME[/N]]", show_default=False, help="default: this project's model")
    ] = "",
    as_json: AsJson = False,
) -> None:
    from flows import releases, workspace
    from flows.rollback import rollback as put_back
    from tasks.config import ConfigError

    root = workspace.find_root(Path.cwd())
    match = re.fullmatch(r"(?P<name>[^@/\s]+)(?:/v?(?P<version>\d+))?", model or releases.registry(root))
    if match is None:
        raise ConfigError(f"{model}: expected NAME or NAME/3")
    done = put_back(root, match["name"], int(match["version"]) if match["version"] else None, say)
    if as_json:
        print(json.dumps(done))
    else:
        was = f" (was v{done['before']})" if done["before"] not in (None, done["version"]) else ""
        sent = f"; sent to {done['pushed']}" if done["pushed"] else ""
        print(f"{done['name']}: champion is v{done['version']}{was}{sent}")
