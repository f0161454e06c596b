"""`preflow retrain`, `preflow promote` and `preflow rollback`: who serves, and how that changes."""

import json
from contextlib import suppress
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
    from flows import server, workspace
    from flows.retrain.retrain import Order, fire
    from flows.schedule import runs

    def goes_on(flow_run: str) -> bool:
        server.up(root)
        return runs.goes_on(flow_run)

    root = workspace.find_root(Path.cwd())
    order = Order(once("--profile", profile), tuple(settings or ()), tuple(watch or ()), by_hand)
    with stoppable() as (cancel, begun):
        show = partial(summary, root, to_stdout=not as_json)
        outcome = fire(root, order, cancel, say=say, goes_on=goes_on, show=show, on_begin=begun.set)
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
    from flows import promotion, server, workspace
    from flows.retrain import retrain
    from flows.schedule import runs
    from rlhf.errors import DependencyDown
    from tasks.config import ConfigError

    root = workspace.find_root(Path.cwd())
    if refuse and (force or candidate):
        raise ConfigError("--refuse promotes nothing; leave out --force and --candidate")
    waits = retrain.waiting(root, run=run)
    if refuse and not waits:
        raise ConfigError(f"--refuse: run {run} does not wait for an answer")
    flow_run = str(waits["flow_run"]) if waits else ""
    done: dict[str, Any]
    if waits is None or force or candidate:
        done = promotion.promote(root, run, candidate, force, say)
        with suppress(DependencyDown):  # it has nothing left to wait for, whether it hears of it or not
            if flow_run and server.up(root):
                runs.close(flow_run, retrain.PROMOTED, str(done["reason"]))
    elif flow_run and server.up(root) and runs.goes_on(flow_run):
        runs.answer(flow_run, not refuse, reason)
        done = {"promoted": False, "run": run, "reason": "answered; the firing that waits goes on with it"}
    else:
        outcome = retrain.decide(root, run, not refuse, reason, say)
        done = {"promoted": not refuse, "run": run, "reason": outcome.message} | outcome.report["promotion"]
    if as_json:
        print(json.dumps(done))
        return
    sent = done.get("unsent") or (f"sent to {', '.join(done['pushed'])}" if done.get("pushed") else "")
    print("; ".join(filter(None, [str(done["reason"]), sent])))


ROLLBACK_HELP = """Put the champion back to the version before, or to the one that is named; forward again likewise.

Its files are read and proven whole first, and fetched from the DVC remote where the cache lacks them. Where there is \
a git remote, it is told at once, for every clone. A run after a rollback does not promote the newer version again: \
name it here to bring it back.

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
    from flows import workspace
    from flows.releases import releases
    from flows.releases.refs import model_named
    from flows.rollback import rollback as put_back
    from tasks.config import ConfigError

    root = workspace.find_root(Path.cwd())
    named = model_named(model or releases.registry(root))
    if named is None or "@" in model:
        raise ConfigError(f"{model}: expected NAME or NAME/3")
    done = put_back(root, named.name, named.number, say)
    if as_json:
        print(json.dumps(done))
    else:
        was = f" (was v{done['before']})" if done["before"] not in (None, done["version"]) else ""
        sent = f"; sent to {done['pushed']}" if done["pushed"] else ""
        print(f"{done['name']}: champion is v{done['version']}{was}{sent}")
