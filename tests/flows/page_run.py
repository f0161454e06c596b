"""A finished run made by hand, for tests of its page: a shipped graph with small outputs of every stage."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.page.facts import About, Facts, gather, module_of
from flows.page.files import InTree
from flows.request import Report
from tasks.config import read_yaml
from tasks.graph import graph_of
from tasks.lineage import policies_of

REPO = Path(__file__).parents[2]
RUN = "20261128-193000-ab12"
HOSTILE = "</script></td><img src=x onerror=alert(1)><svg onload=alert(2)>{{ 7 * 7 }} [a](javascript:alert(3))"


def point(mean: float, half: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + half}


def make_run(
    tree: Path, shipped: Path = REPO, states: Mapping[str, str] | None = None, omit: Iterable[str] = ()
) -> Facts:
    """Facts of a run of the graph in the folder `shipped` that worked in `tree`.

    Stages are `ran` unless `states` says otherwise; outputs whose last part is in `omit` are not written.
    """
    tree.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped / "dvc.yaml", tree / "dvc.yaml")
    shutil.copyfile(REPO / "params.yaml", tree / "params.yaml")
    graph = graph_of(read_yaml(tree / "dvc.yaml"), None)
    policies = ["base", "sft", *(name for name in policies_of(graph) if name not in ("base", "sft"))]
    if any("champion" in stage.deps for stage in graph.stages.values()):
        policies.append("champion")
    for stage in graph.stages.values():
        for out in stage.outs:
            if Path(out).name not in omit:
                _write(tree / out, module_of(stage), policies)
    lock = {
        name: {"outs": [{"path": out, "md5": f"{number:032x}"} for out in stage.outs]}
        for number, (name, stage) in enumerate(graph.stages.items())
    }
    (tree / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))
    told = dict.fromkeys(graph.stages, "ran") | dict(states or {})
    stages = [
        {
            "name": name,
            "state": state,
            "seconds": 2.5 * number,
            "reason": f"{name} lost" * (state == "failed"),
            "exit_code": int(state == "failed"),
        }
        for number, (name, state) in enumerate(told.items())
    ]
    whole = set(told.values()) <= {"ran", "cached"}
    report = Report(
        RUN, ref=f"refs/preflow/runs/{RUN}", commit="c" * 40, stages=stages, seconds=185.0, exit_code=int(not whole)
    )
    if whole:
        report.promotion = {"promoted": True, "name": "policy", "version": 3, "reason": "promoted policy v3"}
    about = About(report, before="20261127-080000-cd34", reports=tree / "reports" / RUN)
    return gather(InTree(tree), tree, about)


def _write(path: Path, module: str, policies: list[str]) -> None:
    makers = {"metrics.json": _metrics(module), "scores.json": _scores(policies), "curves.json": _curves(policies)}
    makers |= {"gate.json": _gate(policies), "trajectory.json": _trajectory()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in makers:
        path.write_text(json.dumps(makers[path.name]))
    elif path.name == "completions":
        path.mkdir(exist_ok=True)
        for name in policies:
            (path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in _answers(name)))
    elif path.name == "report":
        path.mkdir(exist_ok=True)
        (path / "verdict.json").write_text(json.dumps(_verdict()))
        (path / "profile.json").write_text(json.dumps(_profile()))
        (path / "report.html").write_text("<!doctype html><title>Data validation</title>")


def _metrics(module: str) -> dict[str, Any]:
    trust = {
        "accuracy": point(0.79),
        "ceiling": 0.861,
        "pairs": 2340,
        "calibration_error": 0.031,
        "length_correlation": 0.12,
        "reliability": [
            {"claimed": 0.5 + 0.1 * n, "accuracy": 0.52 + 0.09 * n, "pairs": 100 * (n + 1)} for n in range(5)
        ],
        "by_length_difference": [
            {"chosen_is": name, "accuracy": accuracy, "pairs": 80}
            for name, accuracy in (("6+ shorter", 0.7), ("about as long", 0.75), ("6+ longer", 0.88))
        ],
    }
    looks = [
        {"update": n, "reward": 0.1 * n, "held_out_reward": 0.08 * n, "kl": 0.3 * n, "length": 14.0, "stop_rate": 1.0}
        for n in range(0, 13, 3)
    ]
    found: dict[str, dict[str, Any]] = {
        "base": {"tokens": 1_234_567.0, "val_nll": 1.23},
        "sft": {"val_nll": 0.61},
        "rl": {"algorithm": "grpo", "kept": 9, "val": looks, "stopped_early": None},
        "reward_model": {"trusted": True, "reasons": [], "checks": [], "policy_rm": trust, "held_out_rm": trust},
        "validate": {"passed": True, "preferences": {"rows": 1000, "clean": 990, "set_aside": 10}},
        "folds": {"accuracy": point(0.7), "folds": [{}, {}], "budget": {"tokens": 5000}},
    }
    return found.get(module, {})


def _scores(policies: list[str]) -> dict[str, Any]:
    rows = {
        name: {
            "gold_reward": point(0.4 + 0.06 * n),
            "reward": point(0.1 * n),
            "kl": point(0.5 * n),
            "win_rate_vs_sft": point(0.5),
            "stop_rate": point(1.0, 0.0),
        }
        for n, name in enumerate(policies)
    }
    gains = {name: {"gold_reward": point(0.06 * n)} for n, name in enumerate(policies[2:], 1)}
    about = {"prompts": 400, "samples_per_prompt": 4}
    return {"judge": "gold", "policies": rows, "differences": {"sft": gains}, "evaluation_set": about}


def _curves(policies: list[str]) -> dict[str, Any]:
    points = {
        name: {"sqrt_kl": 0.7 * n, "gold_reward": point(0.4 + 0.06 * n), "reward": point(0.1 * n)}
        for n, name in enumerate(policies)
    }
    best = [
        {"n": n, "kl_bound": n / 4, "gold_reward": point(0.5 + n / 50), "reward": point(n / 10)} for n in (1, 2, 4, 8)
    ]
    return {"policies": points, "best_of_n": best}


def _gate(policies: list[str]) -> dict[str, Any]:
    checks = [
        {"name": "gain_over_sft", "value": 0.214, "limit": 0.0, "passed": True},
        {"name": "reward_model", "value": "trusted", "limit": "trusted", "passed": True},
    ]
    last = policies[-1]
    return {
        "promote": True,
        "candidate": last,
        "against": "sft",
        "judge": "gold",
        "checks": checks,
        "reason": f"{last} beats sft by +0.234; all 2 checks passed",
    }


def _trajectory() -> dict[str, Any]:
    return {
        "looks": [
            {
                "update": n,
                "sqrt_kl": n / 2,
                "gold_reward": point(0.5),
                "held_out_reward": point(0.2),
                "reward": point(n),
            }
            for n in range(4)
        ]
    }


def _answers(name: str) -> list[dict[str, Any]]:
    asked = [f"say {HOSTILE}", "name two birds", "count to three"]
    return [
        {
            "id": str(number),
            "messages": [{"role": "system", "content": HOSTILE}, {"role": "user", "content": text}],
            "completions": [
                {"text": f"{name}: {HOSTILE}", "gold_reward": 0.5, "stop_reason": "stop" if number else "length"}
            ],
        }
        for number, text in enumerate(asked)
    ]


def _verdict() -> dict[str, Any]:
    rule = {
        "rule": "empty_reply",
        "says": "no reply is empty",
        "severity": "quarantine",
        "broken": 10,
        "passed": False,
        "observed": None,
    }
    drift = {"rule": "drift", "says": "no drift", "severity": "note", "broken": 0, "passed": True, "observed": 0.04}
    kinds = {
        "preferences": {
            "rows": 1000,
            "clean": 990,
            "set_aside": 10,
            "splits": {"train": 900, "val": 45, "eval": 45},
            "stopped": [],
            "rules": [rule, drift],
        }
    }
    return {"passed": True, "stopped": 0, "kinds": kinds}


def _profile() -> dict[str, Any]:
    lengths = {"chosen_chars": {"quantiles": [1, 5, 20, 40, 60, 120, 400], "powers_of_two": {"64": 10}}}
    return {"preferences": {"rows": 990, "splits": {}, "sources": {"world": 990}, "means": {}, "lengths": lengths}}
