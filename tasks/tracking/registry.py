"""Which policy serves: a version of a registered model is made, with digests of all that made it, and `champion` moved.

What is there is read by `tasks.tracking.versions`."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.errors import DependencyDown, PreflowError
from tasks.lineage import Linker, Tree, policies_of, read_tree
from tasks.tracking import artifacts, describe
from tasks.tracking.card import card
from tasks.tracking.registered import ALIAS, newest_with, reachable
from tasks.tracking.runs import RunRecord
from tasks.tracking.store import Store

MODEL_NOTE = """Policies that passed the gate of the pipeline. Alias `champion`: the one that serves. The description of a version is its model card: scores with intervals, the gate, limits, data, methods, licences.

* `preflow chat`, `preflow export {name} out/`: try the champion, take it away
* `preflow reproduce {name}@champion`: the same bytes again
* `preflow rollback`: the alias back to the version before

Weights are in DVC: the tags `dvc.path` and `dvc.md5` of a version name them, `git.ref` names the code, parameters and dvc.lock that made them; *Source Run* leads to all that it read and wrote."""  # noqa: E501


def promote(run: RunRecord, candidate: str, name: str, folder: Path | None, further: Mapping[str, str]) -> int:
    """See `tasks.tracking.promote`."""
    tree = read_tree(folder or run.tree)
    path = policies_of(tree.graph).get(candidate)
    stage = tree.graph.producer(path) if path else None
    item = next((item for item in tree.outs(stage) if item.path == path), None) if stage else None
    if item is None:
        known = ", ".join(sorted(policies_of(tree.graph))) or "none"
        raise PreflowError(f"cannot promote `{candidate}`: run {run.run_id} has no such policy (it has: {known})")
    with reachable(run.root) as store:
        state = run.state()
        if state.get("store") != store.name or "run" not in state:
            raise DependencyDown("the run itself is not in MLflow yet, so it cannot be promoted there")
        linker = Linker(store.client, state["experiment"], run.run_id, tree)
        version, tags = newest_with(store, name, "dvc.md5", item.md5), _tags(run, tree, candidate, item) | dict(further)
        if version is None:
            version = _register(store, name, linker.model(item), tags)
        else:  # it speaks of the run that made it champion this time
            for key, value in tags.items():
                store.client.set_model_version_tag(name, str(version), key, value)
        written = card(tree, candidate, run.run_id, run.info.get("ref"), name, version)
        store.client.update_model_version(name, str(version), description=written)
        with run.exclusive(wait=True):  # whoever gives the run its page meanwhile adds to the same list
            state = run.state()
            listing = replace(store, sums=state.setdefault("sums", {}))
            artifacts.add_text(listing, state["run"], written, "model_card.md")
            artifacts.seal(listing, state["run"])
            run.save(state)
        store.client.set_registered_model_alias(name, ALIAS, str(version))
        store.client.set_tag(state["run"], "promoted", f"{name} v{version}")
        store.client.log_metric(state["run"], "promoted", 1.0, step=1)
        return version


def crown(root: Path, name: str, number: int, tags: Mapping[str, str]) -> None:
    """See `tasks.tracking.crown`."""
    with reachable(root) as store:
        for key, value in tags.items():
            store.client.set_model_version_tag(name, str(number), key, value)
        store.client.set_registered_model_alias(name, ALIAS, str(number))


def bytes_of(tree_root: Path, candidate: str) -> str | None:
    """See `tasks.tracking.bytes_of`."""
    tree = read_tree(tree_root)
    path = policies_of(tree.graph).get(candidate)
    return tree.digests().get(path) if path else None


def _register(store: Store, name: str, model: str, tags: dict[str, str]) -> int:
    if not store.client.search_registered_models(f"name = '{name}'"):
        store.client.create_registered_model(name, description=MODEL_NOTE.format(name=name))
    with _default_store(store.uri):
        made = store.client.create_model_version(
            name, f"models:/{model}", model_id=model, run_id=_source_run(store, model), tags=tags
        )
    return int(made.version)


def _source_run(store: Store, model: str) -> str | None:
    found: str | None = store.client.get_logged_model(model).source_run_id
    return found


def _tags(run: RunRecord, tree: Tree, candidate: str, item: Any) -> dict[str, str]:
    scores = (describe.read_out(tree, "scores.json") or {"policies": {}})["policies"].get(candidate, {})
    shown = {measure: value for measure, value in scores.items() if value}
    tags = {
        "candidate": candidate,
        "dvc.path": item.path,
        "dvc.md5": item.md5,
        "dvc.lock.sha256": hashlib.sha256((tree.root / "dvc.lock").read_bytes()).hexdigest(),
        "git.ref": run.info.get("ref"),
        "git.commit": (run.outcome or {}).get("commit") or run.info.get("commit"),
        "preflow.run": run.run_id,
        "preflow.profile": run.info.get("profile"),
        "scores": json.dumps(shown, sort_keys=True),
        "digests": json.dumps(tree.digests(), sort_keys=True),
    }
    return {key: str(value) for key, value in tags.items() if value}


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """MLflow looks up the source of a version in the default store, not in that of the client."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before
