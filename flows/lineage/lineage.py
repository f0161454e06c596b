"""Where something comes from and what became of it, as one graph: nodes are data, models and versions by digest.

X may be a registered model (`policy`, `policy@champion`, `policy/3`), a run, an out or its md5, a file of the inbox, or
rows (`row:ID`, `annotator:NAME`, `source:NAME`). Runs that share an out share its node.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import dvc
from flows.lineage.facts import Facts, facts_of
from flows.lineage.nodes import Lineage, Node
from flows.lineage.rows import Wanted
from flows.lineage.runs import Known, Version, checkout, known_runs, module_of, versions
from flows.releases import releases
from flows.releases.refs import CHAMPION, model_named
from rlhf.errors import DependencyDown, PreflowError
from tasks.lineage import Item

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_KIND_WISE = ("collect", "prepare", "validate")
_KNOWN = (
    "X is a model (policy, policy@champion, policy/3), a run (20261128-193000-ab12), what a stage wrote "
    "(data/05_sft/policy, or its md5), a data file (data/inbox/preferences/a.jsonl), a row (row:4be1c27a90d35f68), an "
    "annotator (annotator:ada) or a source (source:forum): `preflow lineage policy@champion`, for example"
)


def lineage(root: Path, text: str, say: Any = lambda _: None) -> Lineage:
    """Upstream and downstream of what `text` names.

    Raises:
        PreflowError: nothing of that name is known here.
    """
    runs, released = known_runs(root, say), versions(root, say)
    if not runs:
        raise PreflowError("no run is kept here yet: `preflow run` makes one, `git fetch` brings those of others")
    wanted = Wanted.parse(text) or _inbox_file(root, text)
    if wanted:
        return _of_rows(wanted, facts_of(dvc.cache(root), wanted, runs, released))
    if text in (run.name for run in runs):
        return _of_run(next(run for run in runs if run.name == text), released)
    items = _items_named(root, text, runs)
    if items:
        return _of_items(text, items, runs, released)
    return _of_version(_version_named(root, text, released), runs, released)


def _inbox_file(root: Path, text: str) -> Wanted | None:
    """Rows know their file by kind and name: of data/inbox/preferences/a.jsonl, preferences/a.jsonl."""
    path = Path(text)
    if path.parts[:2] != ("data", "inbox") or not (root / path).is_file():
        return None
    parts = [part for part in path.parts[2:] if part != "given"]
    return Wanted("file", "/".join([parts[0], "-".join(parts[1:])]))


def _items_named(root: Path, text: str, runs: Sequence[Known]) -> list[Item]:
    """Outs of this md5, or at this path: in the checkout, else in the newest run that has it."""
    everything = [item for run in runs for item in run.outs.values()]
    if _MD5.fullmatch(text):
        found = {(item.path, item.md5): item for item in everything if item.md5.removesuffix(".dir") == text[:32]}
        if not found:
            raise PreflowError(f"no run here wrote an out with md5 {text}; `preflow lineage PATH` takes paths too")
        return list(found.values())
    path = text.rstrip("/")
    for run in filter(None, [checkout(root), *reversed(runs)]):
        holder = next((item for name, item in run.outs.items() if path == name or path.startswith(f"{name}/")), None)
        if holder:
            return [holder]
        inside = [item for name, item in run.outs.items() if name.startswith(f"{path}/")]
        if inside:
            return inside
    return []


def _version_named(root: Path, text: str, released: Sequence[Version]) -> Version:
    model = model_named(text)
    if model and (of_name := [one for one in released if one.name == model.name]):
        champion = model.number is None and model.alias == CHAMPION
        for one in of_name:
            if one.is_champion if champion else one.number == model.number:
                return one
        there = ", ".join(f"{one.name}/{one.number}" for one in of_name)
        raise PreflowError(f"{text}: no such version or alias; there are {there}")
    try:
        found = releases.find(root, text)  # fetches from the git remote, or says what there is
    except DependencyDown:
        raise
    except PreflowError as error:
        what = error if model else f"{text}: nothing here has this name"
        raise PreflowError(f"{what}. {_KNOWN}") from None
    if found.version is None:
        raise PreflowError(f"{text}: this run left nothing that is locked, so nothing can be told of it")
    return Version(found.name, found.version, found.run, found.path, found.md5, found.ref, is_champion=False)


def _of_items(text: str, items: Sequence[Item], runs: Sequence[Known], released: Sequence[Version]) -> Lineage:
    start = _id(items[0]) if len(items) == 1 else f"asked {text}"
    found = Lineage(text, start)
    for run in runs:
        _add_run(found, run)
    _add_versions(found, released)
    if len(items) > 1:
        found.add(Node(start, "data", text, note=f"{len(items)} outs"))
        for item in items:
            found.link(_id(item), start)
            for target in found.next(_id(item), down=True):
                found.link(start, target)
    return found.kept(True, True)


def _of_version(version: Version, runs: Sequence[Known], released: Sequence[Version]) -> Lineage:
    found = Lineage(version.label, f"version {version.label}")
    for run in runs:
        if run.name == version.run or version.md5 in {item.md5 for item in run.outs.values()}:
            _add_run(found, run)
    _add_versions(found, [one for one in released if one == version] or [version])
    return found.kept(True, True)


def _of_run(run: Known, released: Sequence[Version]) -> Lineage:
    start = f"run {run.name}"
    found = Lineage(run.name, start)
    note = " ".join(filter(None, [run.label, f"data version {run.data_version}" if run.data_version else ""]))
    found.add(Node(start, "run", run.name, note=note))
    _add_run(found, run)
    for node in list(found.nodes):
        if node != start and not found.next(node, down=True):
            found.link(node, start)
    for version in released:
        if version.run == run.name:
            found.link(start, found.add(_version_node(version)))
    return found


def _of_rows(wanted: Wanted, facts: Facts) -> Lineage:
    found = Lineage(wanted.text, "rows", facts=facts)
    found.add(Node("rows", "rows", wanted.text, note=facts.title))
    for source in facts.sources:
        if wanted.kind != "source":
            found.link(found.add(Node(f"source {source}", "source", source)), "rows")
    for run, reached in facts.reached:
        for one in reached.values():
            kind = "model" if one.item.is_model else "data"
            rows = f"{one.count} row{'s' * (one.count != 1)}: " if one.word == "holds" else ""
            note = f"{rows}{one.because}"
            found.add(Node(_id(one.item), kind, one.item.path, one.stage, one.word, note, (run.name,)))
            above = [reached[path].item for path in one.inputs if path in reached]
            above = _of_same_kind(one.item, above) if module_of(run.tree.graph, one.stage) in _KIND_WISE else above
            for item in above:
                found.link(_id(item), _id(one.item))
            if not above:
                found.link("rows", _id(one.item))
    _add_versions(found, [version for version, _ in facts.versions])
    return found


def _add_run(found: Lineage, run: Known) -> None:
    graph = run.tree.graph
    for stage in run.stages:
        deps = run.tree.deps(stage)
        for item in run.tree.outs(stage):
            target = found.add(
                Node(_id(item), "model" if item.is_model else "data", item.path, stage, runs=(run.name,))
            )
            for dep in _of_same_kind(item, deps) if module_of(graph, stage) in _KIND_WISE else deps:
                maker = graph.producer(dep.path) or ""
                kind = "model" if dep.is_model else "data" if maker else "source"
                found.link(found.add(Node(_id(dep), kind, dep.path, maker, runs=(run.name,))), target)


def _of_same_kind(item: Item, deps: Sequence[Item]) -> list[Item]:
    """Stages before the models treat kinds by themselves: preferences come of preferences."""
    same = [dep for dep in deps if Path(dep.path).name == Path(item.path).name]
    return same or list(deps)


def _add_versions(found: Lineage, released: Sequence[Version]) -> None:
    for version in released:
        source = next((key for key in found.nodes if key == f"{version.path} {version.md5}"), None)
        if source or found.start == f"version {version.label}":
            target = found.add(_version_node(version))
            if source:
                found.link(source, target)


def _version_node(version: Version) -> Node:
    word = "champion" if version.is_champion else ""
    return Node(f"version {version.label}", "version", version.label, "", word, version.run, (version.run,))


def _id(item: Item) -> str:
    return f"{item.path} {item.md5}"
