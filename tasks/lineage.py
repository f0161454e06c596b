"""What a stage read and wrote, by digest: dvc.yaml and dvc.lock told as MLflow data sets and models.

Data sets carry the DVC md5 as digest and a `dvc://` source; models are external LoggedModels, weights stay in DVC. A
model is found again by path and md5, so stages that were not run link to the very models of the run that made them.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from tasks.graph import Graph, Stage, load_graph
from tasks.lockfile import read_lock


@dataclass(frozen=True, slots=True)
class Item:
    """One dependency or output as dvc.lock has it."""

    path: str
    md5: str
    size: int
    nfiles: int
    is_model: bool

    @property
    def uri(self) -> str:
        """Where the bytes are: `dvc://data/05_sft/policy?md5=….dir`."""
        return f"dvc://{self.path}?md5={self.md5}"


@dataclass(frozen=True)
class Tree:
    """dvc.yaml, dvc.lock and the working tree that they describe."""

    root: Path
    graph: Graph
    lock: Mapping[str, Mapping[str, Any]]

    def deps(self, stage: str) -> list[Item]:
        """Data and models that the locked stage read; code is not listed."""
        wanted = set(self.graph.stages[stage].data_deps)
        return [item for item in self._items(stage, "deps") if item.path in wanted]

    def outs(self, stage: str) -> list[Item]:
        """What the locked stage wrote."""
        return list(self._items(stage, "outs"))

    def params(self, stage: str) -> dict[str, Any]:
        """Its locked parameters, by the names they have in params.yaml."""
        found: dict[str, Any] = {}
        for values in (self.lock.get(stage, {}).get("params") or {}).values():
            found |= values
        return found

    def digests(self) -> dict[str, str]:
        """md5 by path of all that the locked run produced."""
        return {item.path: item.md5 for stage in self.graph.stages for item in self.outs(stage)}

    def consistent(self, stage: str) -> bool:
        """Is the stage locked, and with what its producers are locked with?"""
        digests = self.digests()
        return stage in self.lock and all(digests.get(item.path, item.md5) == item.md5 for item in self.deps(stage))

    def _items(self, stage: str, kind: str) -> Iterator[Item]:
        for raw in self.lock.get(stage, {}).get(kind) or []:
            path = str(raw["path"])
            if "md5" in raw:
                size, nfiles = int(raw.get("size", 0)), int(raw.get("nfiles", 1))
                yield Item(path, str(raw["md5"]), size, nfiles, is_model=self._is_model(path))

    def _is_model(self, path: str) -> bool:
        """A folder of weights; told by its name where it is not checked out."""
        folder = self.root / path
        if folder.is_dir():
            return any(folder.glob("*.safetensors"))
        return Path(path).name in ("policy", "policy_rm", "held_out_rm", "random_control")


def read_tree(root: Path, described: Path | None = None) -> Tree:
    """Graph and lock of a checkout, or with the graph of another folder; without a dvc.lock nothing is locked."""
    return Tree(
        root, load_graph(described or root), read_lock(root / "dvc.lock") if (root / "dvc.lock").exists() else {}
    )


def policies_of(graph: Graph) -> dict[str, str]:
    """Path of each policy that the evaluation compares, by the name it has in scores.json."""
    for stage in graph.stages.values():
        words = shlex.split(stage.cmd)
        if "tasks.evaluate" in words:
            given = {word[2:]: path for word, path in pairwise(words) if word in ("--base", "--sft")}
            return given | dict(word.split("=", 1) for word in _policies(words))
    return {}


def _policies(words: Sequence[str]) -> Iterator[str]:
    """What stands between --policies and the next option."""
    after = words[words.index("--policies") + 1 :] if "--policies" in words else []
    return takewhile(lambda word: not word.startswith("--"), after)


def matches(tree: Tree, stage: str, written: Mapping[str, Mapping[str, Any]]) -> bool:
    """Does the lock speak of what a stage says it wrote (`outs` of its journal's end)?

    dvc writes the lock after the stage has ended, or never where it was killed in between.
    """
    locked = {item.path: item for item in tree.outs(stage)}
    return bool(locked) and locked.keys() == written.keys() and all(
        facts["size"] == locked[path].size
        and facts["nfiles"] == locked[path].nfiles
        and facts.get("md5", locked[path].md5) == locked[path].md5
        for path, facts in written.items()
    )  # fmt: skip


class Linker:
    """Writes lineage of stages into MLflow."""

    def __init__(self, client: Any, experiment: str, run_id: str, tree: Tree) -> None:
        """`run_id` is the pipeline run that new models are said to come from."""
        self._client = client
        self._experiment = experiment
        self._run_id = run_id
        self._tree = tree
        self._models: dict[tuple[str, str], str] = {}

    def link(self, run: str, stage: str) -> None:
        """Inputs, outputs and the digests of all outputs (tags `dvc.out.PATH`) of one child run; twice is once."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput, RunTag

        deps, outs = self._tree.deps(stage), self._tree.outs(stage)
        models = [LoggedModelInput(self.model(item)) for item in deps if item.is_model]
        datasets = [_dataset_input(item) for item in deps if not item.is_model]
        self._client.log_inputs(run, datasets=datasets or None, models=models or None)
        have = self._client.get_run(run).outputs
        known = {output.model_id for output in have.model_outputs} if have else set()
        made = [self.model(item, run) for item in outs if item.is_model]
        if fresh := [LoggedModelOutput(model, 0) for model in made if model not in known]:
            self._client.log_outputs(run, fresh)
        self._client.log_batch(run, tags=[RunTag(f"dvc.out.{item.path}", item.md5) for item in outs])

    def sum_up(self, run: str, stages: Sequence[str]) -> None:
        """Lineage of a whole run, of which these stages are: the data that its models learned from, and the models that
        it ended with."""
        from mlflow.entities import LoggedModelOutput

        outs = {item.path: item for stage in stages for item in self._tree.outs(stage)}
        read = {item.path for stage in stages for item in self._tree.deps(stage) if self._learns(stage)}
        data = [_dataset_input(item) for path, item in outs.items() if path in read and not item.is_model]
        self._client.log_inputs(run, datasets=data or None)
        models = {self.model(item) for item in outs.values() if item.is_model}
        have = self._client.get_run(run).outputs
        known = {output.model_id for output in have.model_outputs} if have else set()
        if fresh := [LoggedModelOutput(model, 0) for model in sorted(models - known)]:
            self._client.log_outputs(run, fresh)

    def _learns(self, stage: str) -> bool:
        return any(item.is_model for item in self._tree.outs(stage))

    def model(self, item: Item, run: str | None = None) -> str:
        """Id of the LoggedModel of these bytes, made on first sight (of `run`, where that run wrote them)."""
        key = (item.path, item.md5)
        if key not in self._models:
            self._models[key] = self._find(item) or self._make(item, run)
        return self._models[key]

    def producer(self, stage: str) -> str | None:
        """The newest child run, of any pipeline run, that ran this stage and wrote what is locked."""
        outs = self._tree.outs(stage)
        if not outs:
            return None
        wanted = [f"tags.`dvc.out.{item.path}` = '{item.md5}'" for item in outs]
        query = " AND ".join([*wanted, "tags.`preflow.state` = 'ran'", "attributes.status = 'FINISHED'"])
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _find(self, item: Item) -> str | None:
        query = f"tags.`dvc.md5` = '{item.md5}' AND tags.`dvc.path` = '{item.path}'"
        found = self._client.search_logged_models([self._experiment], query, max_results=1)
        return str(found[0].model_id) if found else None

    def _make(self, item: Item, run: str | None) -> str:
        stage = self._tree.graph.producer(item.path)
        node = self._tree.graph.stages.get(stage or "")
        model = self._client.create_logged_model(
            self._experiment,
            name=_model_name(item, node),
            source_run_id=run,
            model_type="reward_model" if node and "tasks.reward_model" in node.cmd else "policy",
            tags={
                "mlflow.model.isExternal": "true",
                "dvc.path": item.path,
                "dvc.md5": item.md5,
                "dvc.source": item.uri,
                "preflow.stage": stage or "brought in from outside",
                "preflow.run": self._run_id,
                "size_mb": f"{item.size / 1e6:.1f}",
            },
        )
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)


def _model_name(item: Item, stage: Stage | None) -> str:
    """ "rl", "reward_model-held_out_rm", "checkpoint": MLflow allows no slash in it."""
    name = Path(item.path).name
    if stage is None:
        return name
    return stage.name if name == "policy" else f"{stage.name}-{name}"


def _dataset_input(item: Item) -> Any:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput

    from tasks.tracking.dvc_source import DvcSource

    dataset = MetaDataset(DvcSource(item.path, item.md5), name=item.path, digest=item.md5)
    return DatasetInput(dataset=dataset._to_mlflow_entity())
