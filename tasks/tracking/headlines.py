"""The few numbers and tables that make two pipeline runs comparable at a glance.

MLflow makes a section of charts of each prefix before a `/`. The few without one lead the view in `tracking.views`.
"""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.comparison import JUDGED_BY
from rlhf.records import read_rows
from tasks.costs import SUMMED, total
from tasks.lineage import Linker, Tree, policies_of
from tasks.tracking.describe import MEASURES, read_out
from tasks.tracking.snapshots import NUM_SAMPLES

SAMPLE_FACTS = ("gold_reward", "held_out_reward", "reward", "rule_reward")
Rows = list[dict[str, Any]]


def summary(results: Mapping[str, Mapping[str, Any]], seconds: float, when: int) -> list[Any]:
    """How long a run took, and how much of it was new."""
    from mlflow.entities import Metric

    states = [result["state"] for result in results.values()]
    found = {"seconds": round(seconds, 1), "stages_ran": states.count("ran"), "stages_cached": states.count("cached")}
    return [Metric(name, float(value), when, 0) for name, value in found.items()]


def spending(
    costs: Mapping[str, Mapping[str, float]], results: Mapping[str, Mapping[str, Any]], when: int
) -> list[Any]:
    """What all stages of a run cost together, as section `cost`; `[]` where nothing is known of any."""
    from mlflow.entities import Metric

    summed = total(costs, results) if costs else {}
    return [Metric(f"cost/{name}", value, when, 0) for name, value in summed.items()]


def spent(cost: Mapping[str, float], when: int, *, cached: bool) -> list[Any]:
    """What a stage cost, as section `cost`; of a cached one nothing, and as `cost_then` what it cost when it ran."""
    from mlflow.entities import Metric

    now = [Metric(f"cost/{name}", 0.0, when, 0) for name in SUMMED] if cached and cost else []
    return now + [
        Metric(f"cost_then/{name}" if cached else f"cost/{name}", value, when, 0) for name, value in cost.items()
    ]


def gain(scores: Mapping[str, Any] | None, gate: Mapping[str, Any] | None) -> dict[str, float]:
    """The candidate's gain over whom the gate compared it with, `{}` where nobody was compared.

    It is called after the judge: `gold_gain`, with the ends of its 95% interval, `gold_gain_low` and `gold_gain_high`.
    """
    if not scores or not gate:
        return {}
    pairs = scores.get("differences", {}).get(gate.get("against"), {})
    paired = pairs.get(gate["candidate"], {}).get(JUDGED_BY.get(scores["judge"]))
    ends = {"": "mean", "_low": "ci_low", "_high": "ci_high"}
    return {f"{scores['judge']}_gain{name}": round(paired[end], 4) for name, end in ends.items()} if paired else {}


def headlines(tree: Tree, when: int) -> list[Any]:
    """Metrics of the parent run: `gold_gain`, `gold_reward/rl`, `kl/dpo`, …, reward model accuracy, `gate/promote`."""
    from mlflow.entities import Metric

    scores, gate = read_out(tree, "scores.json"), read_out(tree, "gate.json")
    found = gain(scores, gate) | ({"promoted": 0.0} if gate else {})
    for name, row in (scores or {"policies": {}})["policies"].items():
        found |= {f"{measure}/{name}": row[measure]["mean"] for measure in MEASURES if row.get(measure)}
    for stage in tree.graph.stages.values():
        if "tasks.reward_model" in stage.cmd:
            found |= _accuracies(tree, stage.name)
    if gate:
        found |= {"gate/promote": float(gate["promote"]), "gate/failed_checks": _failed(gate)}
    return [Metric(name, float(value), when, 0) for name, value in found.items()]


def judged_policies(
    tree: Tree, linker: Linker, results: Mapping[str, Mapping[str, Any]], when: int
) -> dict[str, list[Any]]:
    """For the child run of each stage that made a policy: how that policy did, as section `eval`.

    Where the evaluation was run now, the numbers are tied to the model and to the evaluation set by digest too.
    """
    from mlflow.entities import Metric

    scores = read_out(tree, "scores.json")
    paths = policies_of(tree.graph)
    judge = next((stage.name for stage in tree.graph.stages.values() if "tasks.evaluate" in stage.cmd), "")
    fresh = results.get(judge, {}).get("state") == "ran"
    prompts = next((item for item in tree.deps(judge) if Path(item.path).name == "eval"), None) if judge else None
    found: dict[str, list[Any]] = {}
    for name, row in (scores or {"policies": {}})["policies"].items():
        stage = tree.graph.producer(paths.get(name, ""))
        if stage is None:
            continue
        item = next((item for item in tree.outs(stage) if item.path == paths[name]), None)
        tie: dict[str, Any] = {"model_id": linker.model(item)} if item and fresh else {}
        if tie and prompts:
            tie |= {"dataset_name": prompts.path, "dataset_digest": prompts.md5}
        section = "eval" if name == stage or Path(paths[name]).name == "policy" else f"eval_{name}"
        values = [(measure, row[measure]["mean"]) for measure in MEASURES if row.get(measure)]
        found.setdefault(stage, []).extend(
            Metric(f"{section}/{measure}", float(value), when, 0, **tie) for measure, value in values
        )
    return found


def tables(tree: Tree) -> dict[str, Rows]:
    """Tables of the parent run: all policies with intervals, the gate's checks, answers to the same prompts."""
    scores, gate = read_out(tree, "scores.json"), read_out(tree, "gate.json")
    found: dict[str, Rows] = {}
    if scores:
        found["policies"] = [
            {"policy": name} | {measure: _shown(row.get(measure)) for measure in MEASURES}
            for name, row in scores["policies"].items()
        ]
    if samples := _samples(tree):
        found["samples"] = samples
    if gate:
        found["gate"] = [dict(check) for check in gate["checks"]]
    return found


def _samples(tree: Tree) -> Rows:
    """A row a prompt and policy: its first answer, and what it was worth. Rows of all runs can be grouped by prompt."""
    folders = [out for stage in tree.graph.stages.values() for out in stage.outs if Path(out).name == "completions"]
    order = list(policies_of(tree.graph))
    files = list((tree.root / folders[-1]).glob("*.jsonl")) if folders else []
    files.sort(key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.stem))
    rows = [_sample(path.stem, row) for path in files for row in islice(read_rows(path), NUM_SAMPLES)]
    asked = {row["prompt"]: number for number, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: asked[row["prompt"]])


def _sample(policy: str, answered: Mapping[str, Any]) -> dict[str, Any]:
    first = answered["completions"][0]
    worth = {name: round(first[name], 3) for name in SAMPLE_FACTS if first.get(name) is not None}
    row = {"prompt": answered["messages"][-1]["content"], "policy": policy, "completion": first["text"]}
    return row | worth | {"stop_reason": first["stop_reason"]}


def _accuracies(tree: Tree, stage: str) -> dict[str, float]:
    for out in tree.graph.stages[stage].outs:
        if Path(out).name == "metrics.json" and (tree.root / out).exists():
            values = json.loads((tree.root / out).read_text(encoding="utf-8"))
            models = {name: value for name, value in values.items() if isinstance(value, Mapping)}
            accuracies = {name: value["accuracy"] for name, value in models.items() if "accuracy" in value}
            return {f"{stage}/{name}_accuracy": accuracy["mean"] for name, accuracy in accuracies.items()}
    return {}


def _failed(gate: Mapping[str, Any]) -> float:
    return float(sum(not check["passed"] for check in gate["checks"]))


def _shown(value: Mapping[str, float] | None) -> str | None:
    return f"{value['mean']:.3f} [{value['ci_low']:.3f}, {value['ci_high']:.3f}]" if value else None
