"""The graph of dvc.yaml: read once, used by the flow, the lineage and the stage adapter alike.

A small parser of the part of DVC's format that preflow's files use: `stages`, `cmd`, `deps`, `params`, `outs`,
`metrics`, `meta` and `${key.path}` from params.yaml. Nothing here imports DVC.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError
from tasks.config import read_yaml

SECTION = re.compile(r"python -m tasks\.(\w+)\s.*?--params\s+(\S+)", re.DOTALL)
"""In a command: the stage's module, and the section of params.yaml that it reads."""
_PLACEHOLDER = re.compile(r"\$\{([\w.]+)\}")


class GraphError(PreflowError):
    """dvc.yaml is not a graph that preflow can run."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One node of the graph; paths are as written, relative to dvc.yaml."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]  # metrics included
    meta: Mapping[str, Any] = field(default_factory=dict)
    desc: str = ""

    @property
    def data_deps(self) -> tuple[str, ...]:
        """The dependencies that are data or models, not code."""
        return tuple(path for path in self.deps if path.startswith("data/"))


@dataclass(frozen=True)
class Graph:
    """Stages in the order of dvc.yaml, which is an order they can run in."""

    stages: Mapping[str, Stage]

    @cached_property
    def upstream(self) -> Mapping[str, tuple[str, ...]]:
        """For each stage the stages whose outputs it reads, in file order."""
        found: dict[str, tuple[str, ...]] = {}
        for name, stage in self.stages.items():
            makers = {maker for dep in stage.deps for maker in self.makers(dep)}
            found[name] = tuple(other for other in self.stages if other in makers)
        return found

    def makers(self, path: str) -> tuple[str, ...]:
        """The stages that write `path`, a folder that holds it, or something in it; in file order."""
        return tuple(stage.name for stage in self.stages.values() if any(overlap(path, out) for out in stage.outs))

    def descendants(self, names: set[str]) -> set[str]:
        """`names` and every stage that reads, directly or not, what they write."""
        found = set(names)
        for name in self.stages:
            if found.intersection(self.upstream[name]):
                found.add(name)
        return found

    def ancestors(self, names: set[str]) -> set[str]:
        """`names` and every stage whose outputs they need, directly or not."""
        found = set(names)
        for name in reversed(list(self.stages)):
            if name in found:
                found.update(self.upstream[name])
        return found

    def producer(self, path: str) -> str | None:
        """The stage that writes `path` or a folder that holds it; None for what comes from outside."""
        for stage in self.stages.values():
            if any(_inside(path, out) for out in stage.outs):
                return stage.name
        return None


def load_graph(root: Path) -> Graph:
    """The graph of `root`/dvc.yaml with `${…}` filled in from `root`/params.yaml.

    Raises:
        GraphError: as `graph_of`.
    """
    described = read_yaml(root / "dvc.yaml")
    if not isinstance(described.get("stages"), dict) or not described["stages"]:
        raise GraphError(f"{root / 'dvc.yaml'}: no stages")
    return graph_of(described, read_yaml(root / "params.yaml"))


def graph_of(described: Mapping[str, Any], params: Mapping[str, Any] | None) -> Graph:
    """The graph of a dvc.yaml that was read, with `${…}` filled in from `params`; without any it is left as it stands.

    Raises:
        GraphError: a key is missing, or a stage stands before one whose output it reads.
    """
    graph = Graph({name: _stage(name, body, params) for name, body in described["stages"].items()})
    seen: set[str] = set()
    for name in graph.stages:
        late = [other for other in graph.upstream[name] if other not in seen]
        if late:
            raise GraphError(f"dvc.yaml: `{name}` reads what `{late[0]}` writes; put `{late[0]}` above it")
        seen.add(name)
    return graph


def further_sections(described: Mapping[str, Any]) -> dict[str, str]:
    """Sections of params.yaml that stages read under another name than their module's: {section: module}.

    So a graph may use a module several times, each with settings of its own: `python -m tasks.rl --params rl_verifier`.

    Raises:
        GraphError: two modules share a section.
    """
    found: dict[str, str] = {}
    for body in (described.get("stages") or {}).values():
        match = SECTION.search(body["cmd"])
        if match and match[1] != match[2]:
            module = found.setdefault(match[2], match[1])
            if module != match[1]:
                raise GraphError(f"dvc.yaml: tasks.{module} and tasks.{match[1]} share section `{match[2]}`; use two")
    return found


def lookup(params: Mapping[str, Any], dotted: str) -> Any:
    """`params["a"]["b"]` for "a.b".

    Raises:
        GraphError: no such key.
    """
    value: Any = params
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise GraphError(f"params.yaml has no key `{dotted}`, which dvc.yaml asks for")
        value = value[key]
    return value


def stage_key(stage: Stage, root: Path) -> str:
    """A digest of everything a stage's result depends on: command, parameters, and the bytes of its dependencies.

    It names the scratch folder that survives a kill: another key never resumes from it.
    """
    return key_of(parts_of(stage, root))


def parts_of(stage: Stage, root: Path) -> dict[str, Any]:
    """Everything a stage's result depends on: what its key is a digest of."""
    params = read_yaml(root / "params.yaml")
    return {
        "cmd": stage.cmd,
        "params": {name: lookup(params, name) for name in stage.params},
        "deps": {path: digest(root / path) for path in stage.deps},
        "outs": stage.outs,
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The digest of the parts of a stage."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and bytes of everything in a folder; "absent" where there is nothing."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.exists():
        return "absent"
    total = hashlib.sha256()
    for child in _files(path):
        total.update(f"{child.relative_to(path).as_posix()}\0{digest(child)}\n".encode())
    return total.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(child for child in folder.rglob("*") if child.is_file() and child.name != ".gitignore"))


def _stage(name: str, body: Mapping[str, Any], params: Mapping[str, Any] | None) -> Stage:
    def fill(text: str) -> str:
        if params is None:
            return text
        return _PLACEHOLDER.sub(lambda match: str(lookup(params, match[1])), text)

    def paths(key: str) -> Iterator[str]:
        for item in body.get(key) or []:
            yield fill(item if isinstance(item, str) else next(iter(item)))

    return Stage(
        name=name,
        cmd=fill(body["cmd"]),
        deps=tuple(paths("deps")),
        params=tuple(paths("params")),
        outs=(*paths("outs"), *paths("metrics")),
        meta=body.get("meta") or {},
        desc=body.get("desc") or "",
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def overlap(dep: str, out: str) -> bool:
    """Whether one of two paths is the other, or lies in it."""
    return _inside(dep, out) or _inside(out, dep)
