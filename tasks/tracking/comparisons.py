"""Comparisons in MLflow: a parent run with the table and the pictures, and the run of each cell nested below it.

As with runs, what is to be told is written down first, in `<home>/compare/runs/<key>/`: `comparison.json` (begun),
`finish.json` (what came of it), `mlflow.json` (ids), `shipped` (all is said). Anything may be told again.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks import owners
from tasks.journal import home
from tasks.redact import masked_value
from tasks.tracking import describe
from tasks.tracking.runs import RunRecord, is_gone, write_json_atomically
from tasks.tracking.store import Store, connect, identified, name_of
from tasks.tracking.telling import telling
from tasks.tracking.values import chunks, metric_name, text

Facts = Mapping[str, Any]


def place(root: Path, key: str) -> Path:
    """Where the record of a comparison is."""
    return home(root) / "compare" / "runs" / key


def has_begun(root: Path, key: str) -> bool:
    """Whether there is a record of it."""
    return "about" in (_read(place(root, key) / "comparison.json") or {})


def begin(root: Path, key: str, about: Facts) -> None:
    """Write down that a comparison has begun, or goes on.

    `about`: `name`, `command`, `commit`, `registry` (names the experiment) and `params` (the grid).
    """
    folder = place(root, key)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"about": dict(about), "begun": time.time(), "owner": owners.this_process()}
    write_json_atomically(folder / "comparison.json", facts)
    for name in ("finish.json", "shipped"):
        (folder / name).unlink(missing_ok=True)


def finish(root: Path, key: str, told: Facts) -> bool:
    """Write down what came of it; False where that was told, and shipped, before.

    `told`: `status`, `note` (Markdown), `metrics`, `table` (rows of cells), `files` (paths) and `cells`, each with
    `key`, `name`, `run` and `metrics`.
    """
    folder = place(root, key)
    plain = json.loads(json.dumps(dict(told), default=str))
    if (_read(folder / "finish.json") or {}).get("told") == plain:
        return not (folder / "shipped").exists()
    (folder / "shipped").unlink(missing_ok=True)
    write_json_atomically(folder / "finish.json", {"told": plain, "time": time.time()})
    return True


def waiting(root: Path) -> list[str]:
    """Comparisons that are over, by themselves or by a kill, and not shipped."""
    folder = home(root) / "compare" / "runs"
    found = []
    for path in sorted(folder.glob("*/comparison.json")):
        if not (path.parent / "shipped").exists():
            with suppress(OSError, KeyError, TypeError, ValueError):  # going away, or torn by a full disk: nobody's
                owner = (_read(path) or {})["owner"]
                signs = [*path.parent.iterdir(), home(root) / "compare" / "compare.lock"]
                if (path.parent / "finish.json").exists() or is_gone(owner, signs):
                    found.append(path.parent.name)
    return found


def parent_tags(run: RunRecord) -> dict[str, str]:
    """What nests the run of a cell below its comparison, as soon as that is known to MLflow."""
    key = str(run.info.get("comparison") or "")
    parent = _state(run.root, key).get("run") if key else None
    return {"preflow.comparison": key} | ({"mlflow.parentRunId": parent} if parent else {}) if key else {}


def open_run(root: Path, key: str) -> str:
    """Id of the parent run of a comparison that goes on; made where there is none."""
    with telling(place(root, key) / "shipping.lock", f"what MLflow is told of comparison {key}"):
        store = connect(root)
        run = _open(root, key, store)
        store.client.update_run(run, status="RUNNING")
        return run


def ship(root: Path, key: str) -> str:
    """Tell MLflow all that is known of a comparison that is over. Returns the id of the parent run."""
    with telling(place(root, key) / "shipping.lock", f"what MLflow is told of comparison {key}"):
        store, folder = connect(root), place(root, key)
        run = _open(root, key, store)
        ended = _read(folder / "finish.json")
        if ended is None:  # its process was killed; the same command goes on with this very run
            store.client.set_terminated(run, "KILLED")
            (folder / "shipped").touch()
            return run
        told = ended["told"]
        _describe(store, run, told, int(ended["time"] * 1000))
        nested = [_nest(root, store, run, cell) for cell in told["cells"]]
        store.client.set_terminated(run, told["status"], end_time=int(ended["time"] * 1000))
        store.vouch()
        if all(nested):
            (folder / "shipped").touch()
        return run


def _open(root: Path, key: str, store: Store) -> str:
    facts = _read(place(root, key) / "comparison.json") or {}
    state, about = _state(root, key), facts["about"]
    if "run" in state:
        return str(state["run"])
    experiment = store.experiment(str(about["registry"]).replace("policy", "preflow", 1))
    query = f"tags.`preflow.comparison` = '{key}' AND tags.`preflow.kind` = 'comparison'"
    found = store.client.search_runs([experiment], query, max_results=1)
    tags = {"preflow.kind": "comparison", "preflow.comparison": key, "mlflow.user": describe.user()}
    tags |= {"mlflow.source.name": text(about["command"]), "mlflow.source.type": "LOCAL"}
    tags |= {"git.commit": str(about["commit"])} if about.get("commit") else {}
    if found:
        run = str(found[0].info.run_id)
    else:
        start = int(facts["begun"] * 1000)
        made = store.client.create_run(experiment, start_time=start, tags=tags, run_name=f"compare {about['name']}")
        run = identified(made.info.run_id)
    for name, value in about["params"].items():
        store.client.log_param(run, name, text(value, 500))
    write_json_atomically(place(root, key) / "mlflow.json", {"store": store.name, "experiment": experiment, "run": run})
    return run


def _describe(store: Store, run: str, told: Facts, when: int) -> None:
    """Note, numbers, table of cells and files; all of it over what was there."""
    from mlflow.entities import Metric

    store.client.set_tag(run, "mlflow.note.content", text(told["note"]))
    named = [(metric_name(name), value) for name, value in told["metrics"].items()]
    for points in chunks([Metric(name, value, when, 0) for name, value in named], 1000):
        store.client.log_batch(run, metrics=points)
    columns = list(dict.fromkeys(name for row in told["table"] for name in row))
    rows = masked_value([[row.get(name) for name in columns] for row in told["table"]])
    store.client.log_dict(run, {"columns": columns, "data": rows}, "cells.json")
    store.client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": "cells.json", "type": "table"}]))
    for path in told["files"]:
        if Path(path).exists():
            store.client.log_artifact(run, path)


def _nest(root: Path, store: Store, parent: str, cell: Facts) -> bool:
    """Have the run of a cell below `parent`; a run that is below another comparison stays, and a light one says so."""
    state: dict[str, Any] = {}
    shipped = True
    with suppress(OSError, ValueError, KeyError):
        record = RunRecord.read(root, cell["run"])
        state, shipped = record.state(), (record.folder / "shipped").exists()
    origin = state.get("run") if state.get("store") == store.name else None
    if origin is None and not shipped:
        return False
    if origin is not None:
        above = store.client.get_run(origin).data.tags.get("mlflow.parentRunId")
        if above in (None, "", parent):
            store.client.set_tag(origin, "mlflow.parentRunId", parent)
            return True
    _light(store, parent, cell, origin)
    return True


def _light(store: Store, parent: str, cell: Facts, origin: str | None) -> None:
    """A run that only stands for one that another comparison has made."""
    from mlflow.entities import Metric

    experiment = str(store.client.get_run(parent).info.experiment_id)
    query = f"tags.`mlflow.parentRunId` = '{parent}' AND tags.`preflow.cell` = '{cell['key']}'"
    if store.client.search_runs([experiment], query, max_results=1):
        return
    tags = {"mlflow.parentRunId": parent, "preflow.kind": "cell", "preflow.cell": cell["key"], "cached": "true"}
    tags |= {"cached_from": origin} if origin else {}
    tags["mlflow.note.content"] = f"**Not run:** an earlier comparison did. It was run `{cell['run']}`."
    light = store.client.create_run(experiment, tags=tags, run_name=f"{cell['name']} (cached)")
    made = identified(light.info.run_id)
    when = int(time.time() * 1000)
    store.client.log_batch(made, [Metric(name, value, when, 0) for name, value in cell["metrics"].items()])
    store.client.set_terminated(made, "FINISHED")


def _state(root: Path, key: str) -> dict[str, Any]:
    """Ids in the present store; `{}` before it has heard of it."""
    found = _read(place(root, key) / "mlflow.json") or {}
    return found if found.get("store") == name_of(root) else {}


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None
