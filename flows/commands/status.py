"""`preflow status` and `preflow stop`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import AsJson
from flows.summary import say
from rlhf.errors import DependencyDown

if TYPE_CHECKING:
    from tasks.graph import Graph


def stop() -> None:
    """End the Prefect server of this project. Runs are not touched."""
    from flows import server, workspace

    ended = server.stop(workspace.find_root(Path.cwd()))
    print(f"stopped the Prefect server at {ended.page}" if ended else "no Prefect server of this project is running")


def status(
    as_json: AsJson = False,
) -> None:
    """What goes on here; else what `preflow run` would run, and why."""
    from flows import server, standing, workspace
    from flows.going_on import going_on
    from tasks.graph import load_graph

    root = workspace.find_root(Path.cwd())
    graph, going = load_graph(root), going_on(root)
    own = next((one for one in going if one.in_checkout), None)
    stages: dict[str, Any] = {}
    if own:  # dvc would wait for it
        conclusion = standing.busy(own, graph)
    else:
        stages, conclusion = _looked_at(root, graph)
    conclusion = "; ".join([conclusion, *standing.elsewhere([one for one in going if one is not own], graph)])
    here = server.running(root)
    if as_json:
        running = [one.told() for one in going]
        told = {"stages": stages, "running": running, "prefect": here.page if here else None}
        print(json.dumps(told | {"conclusion": conclusion}))
        return
    for name, stage in stages.items():
        upstream = sorted(other for other in graph.upstream[name] if stages[other]["runs"])
        why = _why(stage["reasons"], upstream) if stage["ran_before"] else "never run here"
        print(f"{name:20} {'runs: ' + why if stage['runs'] else 'unchanged'}")
    print(f"Prefect: {here.page}" if here else "Prefect: no server of this project is running")
    print(conclusion)


def _looked_at(root: Path, graph: "Graph") -> tuple[dict[str, Any], str]:
    """Of each stage whether it would run and why, and all that in a sentence."""
    from flows import champion, dvc, standing
    from tasks import tracking
    from tasks.config import read_yaml
    from tasks.lockfile import read_lock

    changed, params = dvc.status(root), read_yaml(root / "params.yaml")
    registry = str((params.get("registry") or {}).get("name", "policy"))
    try:
        reigning = champion.reigning(root, registry)
        serving = f"the champion is {registry} v{reigning['version']}" if reigning else "there is no champion yet"
        renewed = champion.refreshed_by(root, graph, registry, reigning, bool(changed))
    except DependencyDown as error:
        serving, renewed = "nobody can say now who the champion is", {}
        say(f"{error}; shown is what runs with the champion that {champion.FOLDER} names")
    tracking.reconcile(root)
    lock = root / "dvc.lock"
    known = read_lock(lock) if lock.exists() else {}
    all_changed = changed | {name: [*changed.get(name, []), reason] for name, reason in renewed.items()}
    may = graph.descendants(set(all_changed))
    refused = standing.refusals(root, graph, may)
    stages = {
        name: {
            "runs": name in may,
            "ran_before": name in known,
            "reasons": all_changed.get(name, []),
            "refused": refused.get(name),
        }
        for name in graph.stages
    }
    took = standing.estimate(root, graph, params, may)
    told = [standing.idle(graph, all_changed, may, not known, serving, took)]
    told += [f"but {name} refused the same data last time: {reason}" for name, reason in refused.items()]
    return stages, "; ".join(told)


def _why(reasons: list[str], upstream: list[str]) -> str:
    """Why a stage would run, in one line."""
    if not reasons:
        return f"reads {', '.join(upstream)}"
    more = f"; and {len(reasons) - 3} more (--json has them)" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more
