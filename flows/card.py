"""The model card of an export: how to use it, how it was made and how well it did, and whose licences it carries."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import policies, workspace
from flows.policies import Found
from flows.serving import Layout, example, vllm
from tasks.config import read_yaml
from tasks.graph import Graph, digest, graph_of
from tasks.licences import licences
from tasks.lineage import read_tree
from tasks.shapes import KINDS

RAW, VALIDATED = "data/01_raw", "data/03_validated"
SHOWN = ("gold_reward", "held_out_reward", "reward", "win_rate_vs_sft", "kl", "length", "stop_rate")

FRONT = """---
library_name: {library}
pipeline_tag: text-generation
license: other
license_name: see-below
tags: [preflow, rlhf]
---
"""
USE = """```python
{example}```

With vLLM:

```bash
{vllm}
```

The generation config holds the one stop token; the chat template is in the tokenizer's configuration.
"""
IN_4_BITS = """The adapter was trained on weights in 4 bits (nf4, double quantisation), which bitsandbytes makes of
`base/` while it loads. Over the weights of `base/` as they are it is a policy that is close, not equal.
"""
OWN_CODE = """The model brings Python of its own (`*.py`), which runs where it is loaded: read it first.
"""


def card(found: Found, folder: Path, name: str, layout: Layout, checked: int) -> str:
    """README.md of the export that lies in `folder` and will be called `name`."""
    title = found.name if found.version else name
    served = vllm(layout, Path(name), str(found.version.get("name") or name))  # the card goes with the folder
    with_what = "transformers and PEFT" if layout.rank else "transformers"
    proof = (
        f"Before this folder was finished, a process with {with_what} alone loaded it: on {checked} conversations its "
        "chat template gave the ids that training used, and its greedy answers were those of the policy.\n"
    )
    parts = [
        FRONT.format(library="peft" if layout.rank else "transformers"),
        f"# {title}\n",
        USE.format(example=example(layout, name), vllm=served),
        IN_4_BITS if layout.nf4 else "",
        OWN_CODE if layout.own_code else "",
        proof,
        _table("How it was made", ("what", "which"), _made(found)),
        _table("How it did", ("measure", "mean", "95% interval"), _scores(found.version.get("scores") or {})),
        _table("What it was made from", ("what", "origin", "revision", "licence"), _licences(found)),
        "A licence of the model follows from these; preflow states none of its own.\n",
        _table("Files", ("file", "SHA-256"), _files(folder)),
    ]
    return "\n".join(part for part in parts if part)


def _table(title: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"## {title}\n", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _made(found: Found) -> Iterator[tuple[str, str]]:
    version = found.version
    if version:
        yield "registered as", found.name
        yield "policy of the run", f"`{version['candidate']}` of {version['run']}"
        yield "profile", version["profile"] or "none: the defaults"
        yield "git ref", f"`{version['ref']}`"
        yield (
            "git commit",
            f"`{version['commit']}`: code, params.yaml, dvc.yaml and dvc.lock; `dvc repro` makes it again",
        )
        yield "weights in DVC", f"`{version['path']}`, md5 `{version['md5']}`"
    elif found.root is not None:
        path = policies.stage_out(found)
        kept = (
            f"`{path}`, md5 `{read_tree(found.root).digests()[path]}`" if path else "dvc.lock does not name the folder"
        )
        yield "weights in DVC", kept
        commit = workspace.git(found.root, "rev-parse", "HEAD").strip()
        yield "git commit", f"`{commit}`, or what was changed since: it is not registered"
    else:
        yield "not known", "it was exported from a folder outside a project"


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in SHOWN:
        if name in scores:
            one = scores[name]
            yield name, f"{one['mean']:.3f}", f"[{one['ci_low']:.3f}, {one['ci_high']:.3f}]"


def _licences(found: Found) -> Iterator[tuple[str, str, str, str]]:
    params, origins = _params(found), {kind: _origins(found, kind) for kind in KINDS}
    kinds = _read(found, prompts_came=bool(origins["prompts"]))
    names = {kind: {origin["name"] for origin in origins[kind].values()} for kind in KINDS}
    unread = set().union(*names.values()).difference(*(names[kind] for kind in kinds))
    sources = [one for one in params.get("sources") or [] if one["name"] not in unread]
    return licences(params | {"sources": sources} if params else {}, {kind: origins[kind] for kind in kinds})


def _read(found: Found, prompts_came: bool) -> list[str]:
    """Kinds of data that went into a policy and those it was made from; all of them where that is not known, and where
    it read prompts and none came: they are then the questions of the other kinds."""
    path = found.version.get("path") or policies.stage_out(found)
    graph = _graph(found)
    maker = graph.producer(path) if path else None
    deps = [Path(dep) for name in graph.ancestors({maker} if maker else set()) for dep in graph.stages[name].data_deps]
    folders = {kind: Path(VALIDATED, kind) for kind in KINDS}
    kinds = [
        kind
        for kind, folder in folders.items()
        if any(dep.is_relative_to(folder) or folder.is_relative_to(dep) for dep in deps)
    ]
    derived = not prompts_came and {"prompts", "eval"}.intersection(kinds)
    return [*KINDS] if derived or not kinds else kinds


def _graph(found: Found) -> Graph:
    """Of the run that made a policy; without a stage where that is not known."""
    if found.root is None:
        return Graph({})
    if not found.version:
        return read_tree(found.root).graph
    text = workspace.file_at(found.root, found.version["commit"], "dvc.yaml")
    return graph_of(YAML(typ="safe").load(text.decode("utf-8")), None) if text else Graph({})


def _params(found: Found) -> dict[str, Any]:
    if found.root is None:
        return {}
    if not found.version:
        return read_yaml(found.root / "params.yaml")
    text = workspace.file_at(found.root, found.version["commit"], "params.yaml")
    return YAML(typ="safe").load(text.decode("utf-8")) or {} if text else {}


def _origins(found: Found, kind: str) -> dict[str, dict[str, str]]:
    """origin.json of a kind of raw data."""
    text = policies.file_of(found, f"{RAW}/{kind}/origin.json")
    return json.loads(text) if text else {}


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield file.relative_to(folder).as_posix(), f"`{digest(file)}`"
