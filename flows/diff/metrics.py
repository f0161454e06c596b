"""What the metrics of two sides say: each difference with an interval, paired by prompt where that can be told."""

import json
from collections.abc import Iterator, Mapping
from math import hypot
from pathlib import Path
from typing import Any

from flows.diff.sides import Side

PER_PROMPT = ("gold_reward", "reward", "held_out_reward", "rule_reward")
"""Metrics that every completion carries."""
_SCORED_BY = {"reward": "policy_rm", "held_out_reward": "held_out_rm"}
SEED = 0
Interval = Mapping[str, float]


def policies(a: Side, b: Side) -> dict[str, Any] | None:
    """Every metric of every policy that both evaluated; None where the evaluation is the same or not known of both.

    `paired` says that both answered the same prompts, so that a prompt's difficulty cancels out.
    """
    out = next((path for path in b.outs if Path(path).name == "scores.json" and path in a.outs), "")
    if not out or a.outs[out] == b.outs[out]:
        return None
    old, new = (_json(side, out) for side in (a, b))
    if old is None or new is None:
        return {"lacks": (a if old is None else b).label, "rows": []}
    same_set = _digest(old) == _digest(new)
    answers = _answers_out(b)
    rows: list[dict[str, Any]] = []
    for policy in new["policies"]:
        if policy in old["policies"]:
            pairs = _paired(a, b, f"{answers}/{policy}.jsonl") if same_set and answers else {}
            rows += _rows(policy, old, new, pairs)
    return {"judge": new["judge"], "same_prompts": same_set, "rows": rows}


def others(a: Side, b: Side) -> dict[str, list[dict[str, Any]]]:
    """Numbers in the metrics.json of a stage that differ, by stage."""
    found = {}
    for name, entry in b.entries.items():
        for out in (path for path in entry.outs if Path(path).name == "metrics.json"):
            if a.outs.get(out) not in (None, entry.outs[out]):
                old, new = (_json(side, out) for side in (a, b))
                if old is not None and new is not None:
                    found[name] = list(_numbers(old, new, _scored_anew(a, b, name)))
    return found


def _scored_anew(a: Side, b: Side, stage: str) -> bool:
    """Whether the stage read another reward model, so that its rewards are on another scale."""
    before = a.entries[stage].data if stage in a.entries else {}
    models = _SCORED_BY.values()
    return any(Path(path).name in models and before.get(path) != md5 for path, md5 in b.entries[stage].data.items())


def verdicts(a: Side, b: Side) -> dict[str, Any] | None:
    """What the gate said on both sides; None where it said the same or did not speak."""
    out = next((path for path in b.outs if Path(path).name == "gate.json" and path in a.outs), "")
    old, new = (_json(side, out) if out else None for side in (a, b))
    if old is None or new is None or a.outs[out] == b.outs[out]:
        return None
    kept = ("promote", "candidate", "reason")
    return {"a": {key: old.get(key) for key in kept}, "b": {key: new.get(key) for key in kept}}


def unpaired(a: Interval, b: Interval) -> dict[str, float]:
    """Interval of b − a of two independent means from the interval of each, by square-and-add.

    Zou and Donner (2008), "Construction of confidence limits about effect measures": each limit of the difference
    lies as far from it as both limits that it depends on, added as the sides of a right angle.
    """
    mean = b["mean"] - a["mean"]
    down = hypot(b["mean"] - b["ci_low"], a["ci_high"] - a["mean"])
    up = hypot(b["ci_high"] - b["mean"], a["mean"] - a["ci_low"])
    return {"mean": mean, "ci_low": mean - down, "ci_high": mean + up}


def is_interval(value: Any) -> bool:
    """Whether this is a mean with its interval, as metrics files have them."""
    return isinstance(value, Mapping) and {"mean", "ci_low", "ci_high"} <= value.keys()


def intervals(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the numbers of a metrics file and of its means with intervals, each with its value."""
    if isinstance(value, Mapping) and not is_interval(value):
        for key, one in value.items():
            yield from intervals(one, f"{name}.{key}" if name else str(key))
    elif is_interval(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield name, value


def _rows(policy: str, old: Any, new: Any, pairs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, after in new["policies"][policy].items():
        before = old["policies"][policy].get(metric)
        if not (is_interval(before) and is_interval(after)):
            continue
        alike = _scorer(old, metric) == _scorer(new, metric)  # rewards of two models are not one scale
        change = (pairs.get(metric) or unpaired(before, after)) if alike else None
        row = {"policy": policy, "metric": metric, "a": before, "b": after, "change": change}
        yield row | {"paired": bool(alike and metric in pairs)}


def _numbers(old: Any, new: Any, scored_anew: bool) -> Iterator[dict[str, Any]]:
    before = dict(intervals(old))
    for name, after in intervals(new):
        if name in before and before[name] != after:
            alike = not (scored_anew and "reward" in name)
            both = is_interval(before[name]) and is_interval(after)
            change = unpaired(before[name], after) if both and alike else None
            yield {"metric": name, "a": before[name], "b": after, "change": change, "same_scorer": alike}


def _paired(a: Side, b: Side, path: str) -> dict[str, dict[str, float]]:
    """Differences of the metrics that both sides have of every prompt, which must be the same prompts."""
    from rlhf.statistics import paired_bootstrap

    old, new = (_by_prompt(side, path) for side in (a, b))
    found = {}
    for metric in PER_PROMPT:
        before, after = old.get(metric, {}), new.get(metric, {})
        if before and before.keys() == after.keys():
            ids = sorted(before)
            gain = paired_bootstrap([after[one] for one in ids], [before[one] for one in ids], SEED)
            found[metric] = gain.as_dict()
    return found


def _by_prompt(side: Side, path: str) -> dict[str, dict[str, float]]:
    """Mean over a prompt's completions, by prompt id, by metric."""
    found: dict[str, dict[str, float]] = {}
    for line in filter(None, (side.made(path) or b"").decode().split("\n")):
        row = json.loads(line)
        for metric in PER_PROMPT:
            values = [one.get(metric) for one in row["completions"]]
            if values and None not in values:
                found.setdefault(metric, {})[row["id"]] = sum(values) / len(values)
    return found


def _answers_out(side: Side) -> str:
    return next((path for path in side.outs if Path(path).name == "completions"), "")


def _digest(scores: Any) -> Any:
    return (scores.get("evaluation_set") or {}).get("digest")


def _scorer(scores: Any, metric: str) -> Any:
    """Digest of the model that gave a metric; None where none did."""
    return (scores.get("scorers") or {}).get(_SCORED_BY.get(metric, ""))


def _json(side: Side, path: str) -> Any:
    text = side.made(path)
    return None if text is None else json.loads(text)
