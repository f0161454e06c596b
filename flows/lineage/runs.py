"""What git knows of runs: graph and lock of every ref of ours, and which runs were promoted.

A lock may hold entries of an earlier run behind a stage that failed, or that is still to run: only stages that are
locked with what their producers are locked with count as the run's own.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.releases import releases
from flows.releases.refs import CHAMPION, ref_named
from flows.workspace import Files, files_at, git
from rlhf.errors import PreflowError
from tasks import tracking
from tasks.config import read_yaml
from tasks.graph import Graph, graph_of
from tasks.lineage import Item, Tree, read_tree

CHECKOUT = "checkout"
"""Name of what lies in the working tree, where no run's ref holds the same lock."""
_FILES = ("dvc.yaml", "params.yaml", "dvc.lock")
_MODULE = re.compile(r"python -m tasks\.(\w+)")
_SUBJECT = re.compile(r"preflow run (?P<run>\S+) \[(?P<label>.*)\]")


@dataclass(frozen=True)
class Known:
    """One run, by its ref; or the checkout as it lies."""

    name: str
    ref: str
    commit: str
    label: str
    """Profile and settings; "" for a run of the plain params.yaml."""
    when: int
    """Of its last commit, in seconds since 1970; 0 for the checkout."""
    tree: Tree
    params: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The stages that are its own, in the order of the graph."""
        written: dict[str, str] = {}
        own = []
        for stage in self.tree.graph.stages:
            made = all(maker in own for maker in self.tree.graph.upstream[stage])
            fits = all(written.get(item.path, item.md5) == item.md5 for item in self.tree.deps(stage))
            if stage in self.tree.lock and made and fits:
                own.append(stage)
                written |= {item.path: item.md5 for item in self.tree.outs(stage)}
        return tuple(own)

    @cached_property
    def outs(self) -> Mapping[str, Item]:
        """What its stages wrote, by path."""
        return {item.path: item for stage in self.stages for item in self.tree.outs(stage)}

    @property
    def objects(self) -> set[str]:
        """md5 of all data that its lock names, read or written, old entries too."""
        kinds = ("deps", "outs")
        entries = [raw for stage in self.tree.lock.values() for kind in kinds for raw in stage.get(kind) or ()]
        return {str(raw["md5"]) for raw in entries if "md5" in raw and str(raw["path"]).startswith("data/")}

    @cached_property
    def data_version(self) -> str:
        """Name of the data that passed the gate: eight digits over the digests of what `validate` wrote; "" without."""
        found = [
            f"{item.path} {item.md5}"
            for stage in self.stages
            if module_of(self.tree.graph, stage) == "validate"
            for item in self.tree.outs(stage)
        ]
        return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:8] if found else ""


@dataclass(frozen=True)
class Version:
    """A registered version, as git or MLflow tells of it."""

    name: str
    number: int
    run: str
    path: str
    md5: str
    ref: str
    """Of git; "" where MLflow alone knows it."""
    is_champion: bool

    @property
    def label(self) -> str:
        return f"{self.name} v{self.number}"


def module_of(graph: Graph, stage: str) -> str:
    """The stage module that a stage runs; its name where the command is of another form."""
    found = _MODULE.search(graph.stages[stage].cmd)
    return found[1] if found else stage


def known_runs(root: Path, say: Callable[[str], None] = lambda _: None) -> list[Known]:
    """Every run whose ref is in this clone, oldest first, and then the checkout where it holds something else.

    Of a run that was fetched too, our own ref counts. `say` gets a line for each ref that can not be read.
    """
    form = "--format=%(refname)%09%(objectname)%09%(committerdate:unix)%09%(contents:subject)"
    spaces = ("refs/preflow/runs", "refs/preflow-remote/runs")  # by name the remote's would come first
    listed = [line for space in spaces for line in git(root, "for-each-ref", form, space).splitlines()]
    read = _Reader(root)
    found: dict[str, Known] = {}
    lines = [line.split("\t", 3) for line in listed]
    kept = files_at(root, [commit for _, commit, _, _ in lines], _FILES)
    for (ref, commit, when, subject), files in zip(lines, kept, strict=True):
        match = _SUBJECT.fullmatch(subject)
        name = ref.rsplit("/", 1)[1]
        if name in found:
            continue
        try:
            made = read.run(files)
        except PreflowError as error:
            say(f"{ref} is left out, as it can not be read: {error}")
            continue
        if made:
            tree, params = made
            label = match["label"] if match else ""
            found[name] = Known(name, ref, commit, label, int(when), tree, params)
    runs = sorted(found.values(), key=lambda run: run.name)
    here = checkout(root)
    if here and not any(run.tree.lock == here.tree.lock for run in runs):
        runs.append(here)
    return runs


def checkout(root: Path) -> Known | None:
    """What lies in the working tree; None where nothing is locked there."""
    tree = read_tree(root)
    params = read_yaml(root / "params.yaml")
    return Known(CHECKOUT, "", "", "", 0, replace(tree, root=_nowhere(root)), params) if tree.lock else None


def versions(root: Path, say: Any = lambda _: None) -> list[Version]:
    """Registered versions, those that MLflow alone knows too; who is champion is MLflow's to say, where it answers.

    `say` gets a line where it does not.
    """
    found = {}
    for name in releases.names(root):
        champion = _champion_in_git(root, name)
        for one in releases.versions(root, name, say):
            number = one.version or 0
            found[(name, number)] = Version(name, number, one.run, one.path, one.md5, one.ref, number == champion)
    try:
        told = tracking.versions(root)
    except PreflowError as error:
        say(f"{error}; versions and champions are shown as git has them")
        return sorted(found.values(), key=lambda one: (one.name, one.number))
    asked = {version["name"] for version in told}
    found = {key: replace(one, is_champion=False) if one.name in asked else one for key, one in found.items()}
    for version in told:
        key = (version["name"], version["version"])
        fresh = Version(*key, version["run"], version["path"], version["md5"], ref="", is_champion=False)
        found[key] = replace(found.get(key, fresh), is_champion=version["champion"])
    return sorted(found.values(), key=lambda one: (one.name, one.number))


def _champion_in_git(root: Path, name: str) -> int | None:
    try:
        return releases.find(root, ref_named(name, CHAMPION)).version
    except PreflowError:
        return None


class _Reader:
    """Reads locks and graphs of commits; most commits share theirs with another."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parsed: dict[str, dict[str, Any]] = {}
        self._graphs: dict[tuple[str, str], Graph] = {}

    def run(self, files: Files | PreflowError) -> tuple[Tree, Mapping[str, Any]] | None:
        """Tree and params of a commit; None where it has no lock.

        Raises:
            PreflowError: a file of it is torn, or its graph is none that its params fill in.
        """
        if isinstance(files, PreflowError):
            raise files
        if "dvc.lock" not in files or "dvc.yaml" not in files:
            return None
        params = self._parse("params.yaml", files.get("params.yaml", ("", b"")))
        key = (files["dvc.yaml"][0], files.get("params.yaml", ("", b""))[0])
        if key not in self._graphs:
            self._graphs[key] = graph_of(self._parse("dvc.yaml", files["dvc.yaml"]), params)
        lock = self._parse("dvc.lock", files["dvc.lock"]).get("stages") or {}
        return Tree(_nowhere(self._root), self._graphs[key], lock), params

    def _parse(self, path: str, file: tuple[str, bytes]) -> dict[str, Any]:
        blob, content = file
        if blob not in self._parsed:
            try:
                values = YAML(typ="safe").load(content.decode("utf-8", "replace")) or {}
            except (YAMLError, ValueError) as error:
                raise PreflowError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
            if not isinstance(values, dict):
                raise PreflowError(f"{path} is a {type(values).__name__}, expected `key: value` lines")
            self._parsed[blob] = values
        return self._parsed[blob]


def _nowhere(root: Path) -> Path:
    """A tree of a run that is not checked out: what is a model is told by its name alone."""
    return root / ".git" / "not-checked-out"


def names_of(runs: Sequence[str], most: int = 3) -> str:
    """Names of runs in a line, the newest first."""
    names = list(reversed(runs))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
