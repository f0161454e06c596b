"""The `preflow` command. Nothing heavy is imported before a command needs it."""

import json
import shlex
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows import environment
from flows.stopping import stop_now, stoppable
from flows.summary import say, summary
from rlhf.errors import DependencyDown, PreflowError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Preference learning as workflows: from raw data to a promoted policy, again and again.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 data refused, 4 not promoted (--require-promotion), 75 busy, "
    "85 stopped, 86 numerics, 87 a service is down.",
)

_PROFILE = typer.Option(metavar="NAME", help="overlay on params.yaml; `ls profiles` lists the names")

_RUN_HELP = """Run the pipeline: what is unchanged is not run again.

A run with a profile or settings works in a worktree of its own and is kept as a git ref: your files stay as they are.

[bold]Examples[/bold]

  preflow run

  preflow run --set rl.kl_coef=0.05 --set seed=1

  preflow run --profile polite --json
"""


@app.command(help=_RUN_HELP)
def run(
    profile: Annotated[list[str] | None, _PROFILE] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one value over everything; repeatable")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="one JSON object on stdout, all else on stderr")
    ] = False,
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote", metavar="", help="default: promote, but not a run with --set", show_default=False
        ),
    ] = None,
    require_promotion: Annotated[
        bool, typer.Option("--require-promotion", metavar="", help="end with 4 when nothing is promoted")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", metavar="", help="run every stage, also unchanged ones, from nothing")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", metavar="", help="keep the worktree of a run with a profile or settings")
    ] = False,
) -> None:
    from flows import launch, workspace
    from flows.request import Wish

    wish = Wish(
        profile=_once("--profile", profile),
        settings=tuple(settings or ()),
        promote=promote,
        require_promotion=require_promotion,
        rerun=rerun,
        keep=keep,
        command=shlex.join(["preflow", *sys.argv[1:]]),
    )
    root = workspace.find_root(Path.cwd())
    show = partial(summary, root, to_stdout=not as_json)
    with stoppable() as (cancel, begun):
        report = launch.run(root, wish, cancel, say=say, show=show, on_begin=begun.set)
    if as_json:
        print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
    raise typer.Exit(report.exit_code)


_COMPARE_HELP = """Compare algorithms and settings over seeds: one table, with intervals.

Every combination is a run of its own; what they share runs once. What is done is never run again: \
give the same command after a stop, or a longer one, and only what is missing runs. Nothing is promoted.

[bold]Examples[/bold]

  preflow compare --algorithm ppo,grpo,dpo,ipo --seeds 3

  preflow compare --algorithm rloo --lr 5e-4,1e-3,2e-3

  preflow compare --algorithm ppo,rloo --seeds 0,3,7 --set rl.kl_coef=0.02,0.05 --name leash

  preflow compare --algorithm grpo --set 'algorithms.grpo.group_size=4,8,16' --dry-run
"""


@app.command(help=_COMPARE_HELP)
def compare(
    algorithm: Annotated[
        list[str], typer.Option("--algorithm", metavar="NAME[,NAME…]", help="blocks of `algorithms`; repeatable")
    ],
    seeds: Annotated[
        list[str] | None, typer.Option(metavar="N|S,S…", help="how many from 0 on, or which; default: 1")
    ] = None,
    profile: Annotated[list[str] | None, _PROFILE] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE[,VALUE…]", help="values to try, or one for all; repeatable"),
    ] = None,
    rates: Annotated[
        list[str] | None,
        typer.Option("--lr", metavar="RATE[,RATE…]", help="learning rates, of each cell's own algorithm; repeatable"),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="the stage to vary; default: the last one that has the algorithm"),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="folder of the report in reports/compare; default: algorithms and a digest"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="one JSON object on stdout, all else on stderr")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="print what would run, what is done and how long it takes")
    ] = (False),
) -> None:
    from flows import compare as comparing
    from flows import workspace
    from flows.compare_grid import Asked, parse_seeds
    from flows.compare_show import show_comparison, show_plan

    asked = Asked(
        algorithms=_words(algorithm),
        seeds=parse_seeds(_once("--seeds", seeds, "1")),
        profile=_once("--profile", profile),
        settings=tuple(settings or ()),
        rates=_words(rates or []),
        stage=_once("--stage", stage),
        name=_once("--name", name),
        command=shlex.join(["preflow", *sys.argv[1:]]),
    )
    root = workspace.find_root(Path.cwd())
    planned = comparing.plan(root, asked, say)
    if dry_run:
        show_plan(root, planned, as_json)
        return
    with stoppable() as (cancel, begun):
        begun.set()
        found = comparing.run(root, planned, cancel, say)
    if as_json:
        print(json.dumps(found, ensure_ascii=False), flush=True)
    else:
        show_comparison(found)
        print(f"report: {planned.folder(root)}")
    raise typer.Exit(0 if all(cell["state"] == "done" for cell in found["cells"]) else 1)


def _words(texts: list[str]) -> tuple[str, ...]:
    """`a,b` and `c` as a, b, c; an empty word stays one, so that it can be refused."""
    return tuple(word.strip() for text in texts for word in text.split(","))


def _once(option: str, given: list[str] | None, default: str = "") -> str:
    """The one value of an option, where the last of several would win unsaid."""
    from tasks.config import ConfigError

    if given and len(given) > 1:
        raise ConfigError(f"{option}: given {len(given)} times ({', '.join(given)}); give it once")
    return given[0] if given else default


@app.command()
def stop() -> None:
    """End the Prefect server of this project. Runs are not touched."""
    from flows import server, workspace

    ended = server.stop(workspace.find_root(Path.cwd()))
    print(f"stopped the Prefect server at {ended.page}" if ended else "no Prefect server of this project is running")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="one JSON object on stdout")] = False,
) -> None:
    """What `preflow run` would run, and why."""
    from flows import champion, dvc, guards, server, workspace
    from tasks import tracking
    from tasks.config import read_yaml
    from tasks.graph import load_graph
    from tasks.journal import home

    root = workspace.find_root(Path.cwd())
    if (home(root) / "run.lock").exists():
        with guards.held(home(root) / "run.lock", "status"):
            pass  # says which run holds the checkout, where dvc would wait for it
    graph = load_graph(root)
    changed = dvc.status(root)
    registry = str((read_yaml(root / "params.yaml").get("registry") or {}).get("name", "policy"))
    try:
        renewed = champion.refreshed_by(root, root, graph, registry, bool(changed))
    except DependencyDown as error:
        renewed = {}
        say(f"{error}; shown is what runs with the champion that {champion.FOLDER} names")
    for name, reason in renewed.items():
        changed.setdefault(name, []).append(reason)
    tracking.reconcile(root)
    may = graph.descendants(set(changed))
    here = server.running(root)
    if as_json:
        stages = {name: {"runs": name in may, "reasons": changed.get(name, [])} for name in graph.stages}
        print(json.dumps({"stages": stages, "prefect": here.page if here else None}))
        return
    lock = root / "dvc.lock"
    known = read_yaml(lock).get("stages") or {} if lock.exists() else {}
    for name in graph.stages:
        why = (
            _why(changed.get(name, []), sorted(may & set(graph.upstream[name]))) if name in known else "never run here"
        )
        print(f"{name:20} {'runs: ' + why if name in may else 'unchanged'}")
    print(f"Prefect: {here.page}" if here else "Prefect: no server of this project is running")


def _why(reasons: list[str], upstream: list[str]) -> str:
    """Why a stage would run, in one line."""
    if not reasons:
        return f"reads {', '.join(upstream)}"
    more = f"; and {len(reasons) - 3} more (--json has them)" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more


def main() -> None:
    """The console script: errors that a user can mend are one sentence and an exit code."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"preflow: needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}")
    environment.set_defaults()
    signal.signal(signal.SIGINT, stop_now)
    try:
        app()
    except PreflowError as error:
        say(f"preflow: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
