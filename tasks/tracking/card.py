"""The model card of a registered version: how good, made from what, how, under which licence, and how to make it again.

It is the version's description, which databases keep to 5000 characters; what is longer loses its last sections there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.config import read_yaml
from tasks.licences import licences
from tasks.lineage import Tree, policies_of
from tasks.tracking.describe import checks, policies, read_out, table
from tasks.tracking.values import flat, text

LIMIT = 5000
KNOBS = (
    *("algorithm", "method", "selection", "lr", "epochs", "num_updates", "batch_size", "prompts_per_update"),
    *("group_size", "kl_coef", "beta", "num_prompts", "seed"),
)
"""The settings that say most about a method; all of them are the params of its run."""
LIMITS = {
    "gold": "The judge knows the true reward of the embedded world; nothing here speaks of other worlds.",
    "held_out_rm": "The judge is a reward model that was never optimised, of the same preferences: what fools the one "
    "may fool the other, and no person has read these answers.",
    "rules": "The judge is a set of rules: what they do not look at is not measured.",
}
Facts = Mapping[str, Any]


def card(tree: Tree, candidate: str, run: str, ref: str | None, name: str, version: int | str) -> str:
    """Markdown for version `version` of the registered model `name`: policy `candidate` of a run that has ended.

    Args:
        run: the name of the run.
        ref: the git ref that holds its code, params and dvc.lock.
    """
    scores, gate = read_out(tree, "scores.json"), read_out(tree, "gate.json")
    again = f"`preflow reproduce {name}/{version}`: the same bytes, from the DVC remote or by training again."
    parts = [
        gate["reason"] if gate else f"policy {candidate}",
        f"Policy `{candidate}` of run `{run}`" + (f", kept as `{ref}`." if ref else "."),
        _section("How well it does", policies(scores, candidate) if scores else ""),
        _section(f"Gate, against {gate['against']}" if gate else "", checks(gate) if gate else ""),
        _section("Limits", "\n".join(f"* {limit}" for limit in _limits(scores)) if scores else ""),
        _section("Make it again", again),
        _section("Data", table(["rows", "clean", "set aside", "md5"], _data(tree))),
        _section("Methods", table(["stage", "what", "with"], _methods(tree, candidate))),
        _section("Licences", table(["what", "origin", "revision", "licence"], _licences(tree))),
    ]
    return text("\n\n".join(part for part in parts if part), LIMIT)


def _section(title: str, body: str) -> str:
    return f"### {title}\n{body}" if body else ""


def _limits(scores: Facts) -> Iterator[str]:
    about = scores.get("evaluation_set") or {}
    if prompts := about.get("prompts"):
        times = f" × {about['samples_per_prompt']}" if about.get("samples_per_prompt") else ""
        yield f"Measured on {prompts}{times} answers to held-out prompts; intervals are over prompts, of one seed."
    if judge := LIMITS.get(scores["judge"]):
        yield judge
    if found := (scores.get("reward_on_sft") or {}).get("correlation_with_length"):
        yield f"The reward that was optimised correlates with length by {found:+.2f}, over answers of SFT."


def _data(tree: Tree) -> Iterator[list[str]]:
    """Every kind of validated rows, with the digest by which DVC has them."""
    for stage in tree.graph.stages.values():
        if "tasks.validate" not in stage.cmd:
            continue
        counts = next((_json(tree, out) for out in stage.outs if Path(out).name == "metrics.json"), {})
        for item in tree.outs(stage.name):
            found = counts.get(Path(item.path).name)
            if isinstance(found, dict) and found.get("rows"):
                yield [Path(item.path).name, f"{found['clean']:,}", f"{found['set_aside']:,}", f"`{item.md5[:12]}`"]


def _methods(tree: Tree, candidate: str) -> Iterator[list[str]]:
    """The stages that the policy came through and that made models, with the settings that matter most."""
    last = tree.graph.producer(policies_of(tree.graph).get(candidate, ""))
    waiting, seen = [last] if last else [], set()
    while waiting:
        stage = waiting.pop()
        seen.add(stage)
        waiting.extend(set(tree.graph.upstream[stage]) - seen)
    for name in tree.graph.stages:
        if name in seen and any(item.is_model for item in tree.outs(name)):
            knobs = {key.rsplit(".", 1)[-1]: value for key, value in flat(tree.params(name))}
            shown = ", ".join(f"{knob} {knobs[knob]}" for knob in KNOBS if knobs.get(knob) is not None)
            yield [name, tree.graph.stages[name].desc, shown]


def _licences(tree: Tree) -> Iterator[list[str]]:
    outs = [out for stage in tree.graph.stages.values() if "tasks.collect" in stage.cmd for out in stage.outs]
    origins = {Path(out).name: _json(tree, f"{out}/origin.json") for out in outs}
    rows: dict[tuple[str, ...], list[str]] = {}
    for what, *rest in licences(read_yaml(tree.root / "params.yaml"), origins):
        rows.setdefault(tuple(rest), []).append(what)  # one line for what came together
    for where, kinds in rows.items():
        yield [", ".join(kinds), *where]


def _json(tree: Tree, path: str) -> dict[str, Any]:
    file = tree.root / path
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
