"""What the page of a run tells, gathered: numbers only, nothing of how they look.

Only what the run itself stands for is read: outputs of a stage that failed or was skipped are those of an earlier run.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.page.files import Files
from flows.request import Report
from tasks.graph import Graph, Stage, graph_of
from tasks.lineage import Tree, policies_of
from tasks.lockfile import locked

Numbers = Mapping[str, Any]

NUM_PROMPTS = 40
"""Prompts whose answers are shown side by side."""
_MODULE = re.compile(r"python -m tasks\.(\w+)")
_STANDS = ("ran", "cached")


@dataclass(frozen=True)
class About:
    """What is known of a run besides its files."""

    report: Report
    """Without stages where nobody has told what became of each: then all that the lock names counts as the run's."""
    label: str = ""
    """Profile and settings; "" for a plain run."""
    command: str = ""
    profile: str = ""
    before: str = ""
    """The run before this one of the same label."""
    reports: Path = Path("reports")
    """Folder of the run's page and of its validation reports."""


@dataclass(frozen=True)
class Facts:
    """A run as its page tells of it; what is not there is empty or None."""

    about: About
    files: Files
    tree: Tree

    @property
    def graph(self) -> Graph:
        return self.tree.graph

    @cached_property
    def results(self) -> Mapping[str, Numbers]:
        """What became of each stage: state, seconds, reason."""
        told = {stage["name"]: stage for stage in self.about.report.stages}
        kept = {name: {"name": name, "state": "kept" if name in self.tree.lock else "unknown"} for name in self.stages}
        return {name: told.get(name, kept[name]) for name in self.stages}

    @property
    def stages(self) -> Sequence[str]:
        return list(self.graph.stages)

    @cached_property
    def scores(self) -> Numbers | None:
        return self._json_of("evaluate", "scores.json")

    @cached_property
    def curves(self) -> Numbers | None:
        return self._json_of("evaluate", "curves.json")

    @cached_property
    def gate(self) -> Numbers | None:
        return self._json_of("gate", "gate.json")

    @cached_property
    def trajectory(self) -> Numbers | None:
        return self._json_of("trajectory", "trajectory.json")

    @cached_property
    def metrics(self) -> Mapping[str, Numbers]:
        """metrics.json of each stage that has one."""
        found = ((name, self._json(out)) for name, out in self._outs("metrics.json"))
        return {name: metrics for name, metrics in found if metrics is not None}

    def metrics_of(self, module: str) -> Mapping[str, Numbers]:
        """Those of the stages that run a module, as a graph may have several."""
        return {name: one for name, one in self.metrics.items() if module_of(self.graph.stages[name]) == module}

    @cached_property
    def policies(self) -> Mapping[str, str]:
        """Path of each policy that was compared, by the name that the scores have for it."""
        return policies_of(self.graph)

    @cached_property
    def samples(self) -> Sequence[Numbers]:
        """The first prompts, each with the answers of every policy: id, messages, answers by policy."""
        found: dict[str, dict[str, Any]] = {}
        for _, folder in self._outs("completions"):
            for name in self.files.names(folder):
                for row in self._rows(f"{folder}/{name}", NUM_PROMPTS):
                    one = found.setdefault(str(row["id"]), {"messages": row["messages"], "answers": {}})
                    one["answers"][Path(name).stem] = row["completions"]
        return list(found.values())[:NUM_PROMPTS]

    @cached_property
    def verdicts(self) -> Mapping[str, Numbers]:
        """What the data gate says, by stage; of a refusal the report is in the run's own folder and nowhere else."""
        found = {name: self._json(f"{folder}/verdict.json") for name, folder in self._outs("report")}
        for name, folder in self.validations.items():
            if self.results[name]["state"] == "failed":
                found[name] = _parsed(_bytes(folder / "verdict.json"))
        return {name: verdict for name, verdict in found.items() if verdict is not None}

    @cached_property
    def profiles(self) -> Mapping[str, Numbers]:
        """Counts, lengths and sources of each kind of data, by stage."""
        found = {name: self._json(f"{folder}/profile.json") for name, folder in self._outs("report")}
        return {name: profile for name, profile in found.items() if profile}

    @cached_property
    def validations(self) -> Mapping[str, Path]:
        """Where the validation page of a stage is, beside this one, or would be."""
        top = self.about.reports / "validation"
        gates = {name: module_of(stage) for name, stage in self.graph.stages.items()}
        return {
            name: top if module == "validate" else top / module
            for name, module in gates.items()
            if module in ("validate", "annotate")
        }

    @cached_property
    def missing(self) -> list[str]:
        """Small outputs that the run wrote and that are not to be had here, so that the page is silent on them."""
        wanted = [(name, out) for name in self.stages for out in self.graph.stages[name].outs if out.endswith(".json")]
        return [
            out for name, out in wanted if self._stands(name) and name in self.tree.lock and self._json(out) is None
        ]

    def _json_of(self, module: str, file: str) -> Numbers | None:
        """A file that a stage of this module wrote, the last one where a graph has several."""
        outs = [out for name, out in self._outs(file) if module_of(self.graph.stages[name]) == module]
        return self._json(outs[-1]) if outs else None

    def _outs(self, last: str) -> Iterator[tuple[str, str]]:
        """Stages that stand, with the output whose name ends so."""
        for name, stage in self.graph.stages.items():
            for out in stage.outs:
                if Path(out).name == last and self._stands(name):
                    yield name, out

    def _stands(self, stage: str) -> bool:
        told = {one["name"]: one["state"] for one in self.about.report.stages}
        return told.get(stage, "ran" if not told else "") in _STANDS

    def _json(self, path: str) -> Numbers | None:
        return _parsed(self.files.read(path))

    def _rows(self, path: str, most: int) -> list[Numbers]:
        lines = (self.files.read(path) or b"").splitlines()[:most]
        return [row for line in lines if (row := _parsed(line)) is not None]


def gather(files: Files, root: Path, about: About) -> Facts:
    """The facts of a run, read when they are asked for.

    `root` is a checkout where data of the run may lie. Raises PreflowError where its dvc.yaml is no graph.
    """
    described = YAML(typ="safe").load(files.read("dvc.yaml") or b"") or {"stages": {}}
    lock = (files.read("dvc.lock") or b"").decode("utf-8", "replace")
    return Facts(about, files, Tree(root, graph_of(described, None), locked(lock)))


def module_of(stage: Stage) -> str:
    """The module that a stage runs, "rl"; "" for one that runs none of ours."""
    found = _MODULE.search(stage.cmd)
    return found[1] if found else ""


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _parsed(text: bytes | None) -> dict[str, Any] | None:
    """A JSON object; None for anything else, such as a file that a kill has torn."""
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
