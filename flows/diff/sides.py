"""One side of a diff: a commit of ours, or the working tree, and what decides the result of each of its stages."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import dvc, workspace
from flows.again import md5_of, resolve
from flows.cache import files_of, object_path
from flows.workspace import git
from rlhf.errors import PreflowError
from tasks.graph import Graph, GraphError, Stage, digest, graph_of, lookup

ENVIRONMENT = "environment.json"
IGNORED = (".gitkeep",)  # as .dvcignore has it
UNKNOWN = ""
"""Instead of a digest that nobody knows: no stage has written it here, or git does not have it."""
_KNOB = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Entry:
    """What decides the result of a stage, and the result."""

    command: str
    """As it stands in dvc.yaml, its knobs not filled in."""
    code: Mapping[str, str]
    """md5 by path of what is in git."""
    params: Mapping[str, Any]
    """Leaves of the sections that it reads, and the knobs of its command."""
    data: Mapping[str, str]
    """md5 by path of data and models."""
    outs: Mapping[str, str]
    """md5 by path; empty where this side has not run it."""


@dataclass(frozen=True)
class Side:
    """A state of the project."""

    label: str
    commit: str
    """Of git; "" for the working tree."""
    root: Path
    cache: Path
    stale: Collection[str]
    """Stages whose entry in dvc.lock speaks of another state than this."""
    read: Callable[[str], bytes | None]
    """The bytes of a file that git has, or that lies in the working tree."""

    @cached_property
    def params(self) -> Mapping[str, Any]:
        return self._yaml("params.yaml")

    @cached_property
    def graph(self) -> Graph:
        return graph_of(self._described, self.params)

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """By stage, in the order of the graph."""
        lock = self._yaml("dvc.lock").get("stages") or {}
        found: dict[str, Entry] = {}
        for name, stage in self.graph.stages.items():
            locked = {} if name in self.stale else lock.get(name) or {}
            made = {path: md5 for entry in found.values() for path, md5 in entry.outs.items()}
            found[name] = self._entry(stage, locked, made)
        return found

    @cached_property
    def outs(self) -> Mapping[str, str]:
        """md5 by path of everything that this side has made."""
        return {path: md5 for entry in self.entries.values() for path, md5 in entry.outs.items()}

    def param(self, key: str) -> Any:
        """A value of params.yaml; None where it has no such key."""
        try:
            return lookup(self.params, key)
        except GraphError:
            return None

    def made(self, path: str) -> bytes | None:
        """A file that a stage wrote, out of the DVC cache; None where that does not have it."""
        if path in self.outs:
            kept = object_path(self.cache, self.outs[path])
        else:
            folders = (out for out, md5 in self.outs.items() if md5.endswith(".dir"))
            folder = next((out for out in folders if path.startswith(f"{out}/")), "")
            kept = files_of(self.cache, self.outs.get(folder)).get(path[len(folder) + 1 :])
        return kept.read_bytes() if kept else None

    def kept(self, folder: str) -> Mapping[str, str]:
        """sha256 by path of the files of a folder that no stage writes; of a commit those that git has."""
        if self.commit:
            names = git(self.root, "ls-tree", "-r", "-z", "--name-only", self.commit, "--", folder)
            paths = names.strip("\0").split("\0") if names else []
        else:
            files = (path for path in (self.root / folder).rglob("*") if path.is_file())
            paths = [path.relative_to(self.root).as_posix() for path in files]
        return {path: self._sha256(path) for path in sorted(paths) if Path(path).name not in IGNORED}

    def _sha256(self, path: str) -> str:
        if not self.commit:
            return digest(self.root / path)
        return hashlib.sha256(self.read(path) or b"").hexdigest()

    @cached_property
    def _described(self) -> Mapping[str, Any]:
        found = self._yaml("dvc.yaml")
        if not found.get("stages"):
            raise PreflowError(f"{self.label} has no dvc.yaml with stages: it is no state of a preflow project")
        return found

    def _yaml(self, path: str) -> dict[str, Any]:
        return YAML(typ="safe").load((self.read(path) or b"").decode()) or {}

    def _entry(self, stage: Stage, locked: Mapping[str, Any], made: Mapping[str, str]) -> Entry:
        command = str(self._described["stages"][stage.name]["cmd"])
        if locked:
            deps = {dep["path"]: str(dep.get("md5", UNKNOWN)) for dep in locked.get("deps") or ()}
            sections: list[Any] = list((locked.get("params") or {}).values())
        else:
            deps = {path: self._digest(path, made) for path in stage.deps}
            sections = [{key: self.param(key)} for key in stage.params]
        params = {leaf: value for section in sections for leaf, value in leaves(section)}
        return Entry(
            command=" ".join(command.split()),
            code={path: md5 for path, md5 in deps.items() if path not in stage.data_deps},
            params=params | {key: self.param(key) for key in _KNOB.findall(command)},
            data={path: md5 for path, md5 in deps.items() if path in stage.data_deps},
            outs={out["path"]: str(out["md5"]) for out in locked.get("outs") or () if "md5" in out},
        )

    def _digest(self, path: str, made: Mapping[str, str]) -> str:
        """Of a dependency as it is now."""
        if self.graph.producer(path):
            return made.get(path, UNKNOWN)
        if not self.commit:
            return md5_of(self.root / path) or UNKNOWN
        content = self.read(path)
        return UNKNOWN if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest()


def open_side(root: Path, text: str, cache: Path) -> Side:
    """What `text` names; the working tree for "".

    Raises:
        PreflowError: nothing has this name.
    """
    if not text:
        stale = _stale(root)
        return Side("the working tree", "", root, cache, stale, lambda path: _on_disk(root / path))
    found = resolve(root, text)
    return Side(found.label, found.commit, root, cache, (), lambda path: workspace.file_at(root, found.commit, path))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of what is no mapping itself, each with its value."""
    if isinstance(value, Mapping) and (value or not name):
        for key, one in value.items():
            yield from leaves(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _stale(root: Path) -> set[str]:
    """What `preflow run` may have to run: its entries in dvc.lock are of an earlier state."""
    side = Side("the working tree", "", root, root, (), lambda path: _on_disk(root / path))
    return side.graph.descendants(set(dvc.status(root)))


def _on_disk(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
