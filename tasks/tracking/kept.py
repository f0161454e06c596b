"""What MLflow keeps of a run, read to be held against its dvc.lock, and the artifacts to be hashed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tasks import sums
from tasks.tracking import artifacts
from tasks.tracking.registered import reachable
from tasks.tracking.store import Store, is_absent

_OUT = "dvc.out."


@dataclass(frozen=True)
class Kept:
    """The run of a pipeline, or of one of its stages."""

    id: str
    stage: str
    """ "" for the pipeline's own."""
    is_deleted: bool
    is_sealed: bool
    """Whether SHA256SUMS is among its artifacts."""
    digests: tuple[tuple[str, str], ...]
    """Path and md5 of each output, data set and model that it is linked with."""


def runs_of(root: Path, run_id: str) -> list[Kept]:
    """What MLflow has of a pipeline run; its own run first, nothing where it knows none.

    Raises:
        DependencyDown: MLflow did not answer.
    """
    if is_absent(root):
        return []
    with reachable(root) as store:
        from mlflow.entities import ViewType

        everywhere = [one.experiment_id for one in store.client.search_experiments(view_type=ViewType.ALL)]
        query = f"tags.`preflow.run` = '{run_id}'"
        found = store.client.search_runs(everywhere, query, run_view_type=ViewType.ALL) if everywhere else []
        models: dict[str, tuple[str, str]] = {}
        told = [_kept(store, run, models) for run in found]
        return sorted(told, key=lambda one: one.stage)


@dataclass(frozen=True)
class Artifact:
    """What was put among the artifacts of a run."""

    name: str
    size: int
    why: str
    """Why it is not what was put there; "" where it is."""
    is_withdrawn: bool = False
    """Whether it is not there, on purpose."""
    unseen: str = ""
    """Why it could not be looked at, which says nothing of what it is; "" where it was."""


def artifacts_of(root: Path, parent: str) -> Iterator[Artifact]:
    """Each artifact of a pipeline run and its stages, hashed; of a list of them that is of no use, that alone.

    MLflow has its time for each folder: there may be many, and hashing them takes time too.

    Raises:
        DependencyDown: MLflow did not answer.
    """
    with reachable(root) as store:
        listed = _list(store, parent)
    if isinstance(listed, Artifact):
        yield listed
        return
    for (run, folder), names in groupby(sorted(listed.items()), lambda item: _place(item[0])):
        missed: dict[str, str] = {}
        with reachable(root) as store, artifacts.files(store, run, folder, missed=missed) as there:
            place = {path.name: path for path in there}
            for name, sha256 in names:
                last = name.rpartition("/")[2]
                if last in place:
                    yield Artifact(name, place[last].stat().st_size, sums.unlike(place[last], sha256))
                elif last in missed:
                    yield Artifact(name, 0, "", unseen=missed[last])
                else:
                    yield Artifact(name, 0, "is not there", last + sums.WITHDRAWN in place.keys() | missed.keys())


def _list(store: Store, parent: str) -> dict[str, str] | Artifact:
    """SHA-256 by name of what was put among artifacts; or the list itself, with why that is not known."""
    name, missed = artifacts.name_in(parent, sums.SUMS), dict[str, str]()
    with artifacts.files(store, parent, "", sums.SUMS.__eq__, missed) as found:
        if missed:
            return Artifact(name, 0, "", unseen=missed[sums.SUMS])
        if not found:
            return Artifact(name, 0, "is not there")
        try:
            return sums.parse(found[0].read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return Artifact(name, 0, f"cannot be used: {error}")


def _place(name: str) -> tuple[str, str]:
    """Run and folder of an artifact: `<run>/artifacts/<folder>/<file>`."""
    run, _, path = name.partition("/artifacts/")
    return run, path.rpartition("/")[0]


def _kept(store: Store, run: Any, models: dict[str, tuple[str, str]]) -> Kept:
    whole, tags = store.client.get_run(run.info.run_id), run.data.tags
    linked = [(key.removeprefix(_OUT), value) for key, value in tags.items() if key.startswith(_OUT)]
    linked += [(one.dataset.name, one.dataset.digest) for one in whole.inputs.dataset_inputs]
    for one in (*whole.inputs.model_inputs, *whole.outputs.model_outputs):
        if one.model_id not in models:
            models[one.model_id] = _model(store.client.get_logged_model(one.model_id).tags)
        linked.append(models[one.model_id])
    return Kept(
        id=str(run.info.run_id),
        stage=tags.get("preflow.stage", ""),
        is_deleted=run.info.lifecycle_stage == "deleted",
        is_sealed=artifacts.SEALED in tags,
        digests=tuple(linked),
    )


def _model(tags: Mapping[str, str]) -> tuple[str, str]:
    return tags.get("dvc.path", ""), tags.get("dvc.md5", "")
