"""`preflow status` and `preflow stop`."""

import json
from pathlib import Path

from flows.commands.options import AsJson
from flows.summary import say
from rlhf.errors import DependencyDown


def stop() -> None:
    """End the Prefect server of this project. Runs are not touched."""
    from flows import server, workspace

    ended = server.stop(workspace.find_root(Path.cwd()))
    print(f"stopped the Prefect server at {ended.page}" if ended else "no Prefect server of this project is running")


def status(
    as_json: AsJson = False,
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
