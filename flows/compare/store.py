"""What comparisons keep in `.preflow/compare`: results of finished cells, and the lock entries of finished stages.

    cells/<key>/       scores.json, curves.json, metrics.json (of the method's stage), trajectory.json, values.json, and
                       cell.json, which is written last: a cell with one is never run again
    stages/<signature>.json   lock entry of a stage, and how long it took where it was run
    runs/<comparison>/ logs of its cells, and what MLflow was told of it

All of it may be deleted: cells are then run again, and find their stages in DVC's run cache.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import inputs
from flows.compare.grid import Cell
from flows.request import Report
from rlhf.errors import PreflowError
from rlhf.records import read_rows
from tasks.graph import Graph, load_graph
from tasks.journal import home
from tasks.outcome import StageResult

PER_PROMPT = ("gold_reward", "held_out_reward", "reward", "rule_reward")


def folder(root: Path) -> Path:
    """Where comparisons of a project keep their results."""
    return home(root) / "compare"


def result(root: Path, key: str) -> dict[str, Any] | None:
    """What a finished cell left: its files, by name without `.json`; None for a cell that is not finished."""
    if not has_result(root, key):
        return None
    place = folder(root) / "cells" / key
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in place.glob("*.json")}


def has_result(root: Path, key: str) -> bool:
    """Whether a cell is finished."""
    return (folder(root) / "cells" / key / "cell.json").exists()


def keep_result(root: Path, cell: Cell, report: Report, tree: Path) -> None:
    """Read the results of a cell from the tree that it ran in."""
    place, graph = folder(root) / "cells" / cell.key, load_graph(tree)
    scores = _out(graph, tree, "scores.json")
    values = _per_prompt(graph, tree)
    curves = _out(graph, tree, "curves.json")
    metrics = _out(Graph({cell.stage: graph.stages[cell.stage]}), tree, "metrics.json")
    trajectory = _out(graph, tree, "trajectory.json")
    found = {"scores": scores, "curves": curves, "metrics": metrics, "values": values, "trajectory": trajectory}
    for name, value in found.items():
        write(place / f"{name}.json", value)
    about = {
        "name": cell.name,
        "algorithm": cell.algorithm,
        "seed": cell.seed,
        "settings": cell.settings,
        "run": report.run,
        "ref": report.ref,
        "commit": report.commit,
        "mlflow": report.mlflow,
        "seconds": seconds_of(root, cell.signatures[cell.stage]),
        "overhead": round(report.seconds - sum(stage["seconds"] for stage in report.stages), 1),
    }
    write(place / "cell.json", about)


def keep_entry(root: Path, cell: Cell, stage: StageResult, tree: Path) -> None:
    """Keep what dvc.lock says of a stage of a cell that has just ended, for other cells to begin with.

    It is given up soon where the file does not have it, as DVC's run cache knows it too.
    """
    path = _entry(root, cell.signatures[stage.name])
    if path.exists() or stage.state not in ("ran", "cached"):
        return
    seconds = stage.seconds if stage.state == "ran" else None
    with suppress(OSError, PreflowError):
        if lock := inputs.entries(tree, load_graph(tree), [stage.name], looks=20):
            write(path, {"kind": kind(cell, stage.name), "seconds": seconds, "entry": lock[stage.name]})


def forget_lost(root: Path, cache: Path, signatures: Iterable[str]) -> None:
    """Drop the lock entries of stages whose outputs are no longer in the DVC cache: they have to be made again."""
    for signature in set(signatures):
        path = _entry(root, signature)
        try:
            outs = json.loads(path.read_text(encoding="utf-8"))["entry"]["outs"]
            whole = all(_in_cache(cache, out["md5"]) for out in outs if "md5" in out)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            path.unlink(missing_ok=True)


def _in_cache(cache: Path, md5: str) -> bool:
    """Whether the cache has a file, or a folder with all that is in it."""
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not path.exists() or not md5.endswith(".dir"):
        return path.exists()
    return all(_in_cache(cache, entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8")))


def has_entry(root: Path, signature: str) -> bool:
    """Whether some cell has finished this stage."""
    return _entry(root, signature).exists()


def kind(cell: Cell, stage: str) -> str:
    """What takes about as long as other stages of this kind: the stage, with its algorithm where it has one."""
    return f"{stage} {cell.algorithm}" if stage == cell.stage else stage


def seconds_of(root: Path, signature: str) -> float | None:
    """How long a stage took when it was run; None where nobody has seen that."""
    path = _entry(root, signature)
    found = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else None
    return None if found is None else float(found)


def seconds_by_kind(root: Path) -> dict[str, float]:
    """Mean seconds of the stages that were run, by kind; under "" what a whole cell takes beside its stages."""
    seen: dict[str, list[float]] = {}
    for path in (folder(root) / "stages").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["seconds"] is not None:
            seen.setdefault(found["kind"], []).append(found["seconds"])
    for path in (folder(root) / "cells").glob("*/cell.json"):
        seen.setdefault("", []).append(json.loads(path.read_text(encoding="utf-8"))["overhead"])
    return {name: sum(values) / len(values) for name, values in seen.items()}


def lock_of(root: Path, signatures: Mapping[str, str]) -> str:
    """A dvc.lock of all stages that some cell has finished, in the order of the graph; "" for none."""
    stages = {}
    for name, signature in signatures.items():
        path = _entry(root, signature)
        if path.exists():
            stages[name] = json.loads(path.read_text(encoding="utf-8"))["entry"]
    if not stages:
        return ""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump({"schema": "2.0", "stages": stages}, stream)
    return stream.getvalue()


def _entry(root: Path, signature: str) -> Path:
    return folder(root) / "stages" / f"{signature}.json"


def write(path: Path, value: Any) -> None:
    """JSON, all of it or nothing, whoever else is writing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def _out(graph: Graph, tree: Path, name: str) -> Any:
    """The last output of this file name; `{}` where there is none."""
    found = [tree / out for stage in graph.stages.values() for out in stage.outs if Path(out).name == name]
    return json.loads(found[-1].read_text(encoding="utf-8")) if found else {}


def _per_prompt(graph: Graph, tree: Path) -> dict[str, Any]:
    """`{"ids": […], "policies": {name: {metric: [one mean a prompt]}}}`; a metric that is not known is left out."""
    found = [tree / out for stage in graph.stages.values() for out in stage.outs if Path(out).name == "completions"]
    ids: list[str] = []
    policies: dict[str, dict[str, list[float]]] = {}
    for path in sorted(found[-1].glob("*.jsonl")) if found else []:
        rows = list(read_rows(path))
        ids = [row["id"] for row in rows]
        policies[path.stem] = {}
        for metric in PER_PROMPT:
            answered = [[sample.get(metric) for sample in row["completions"]] for row in rows]
            if all(value is not None for values in answered for value in values):
                policies[path.stem][metric] = [round(sum(values) / len(values), 9) for values in answered]
    return {"ids": ids, "policies": policies}
