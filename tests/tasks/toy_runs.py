"""A toy pipeline for the tests of tracking and lineage: four stages, with the files that the real ones leave."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tasks import tracking
from tasks.journal import Log, new_folder
from tasks.outcome import StageResult
from tasks.tracking.store import connect
from tasks.witness import origin, outputs

GRAPH = """
stages:
  collect:
    desc: bring in rows
    cmd: python -m tasks.collect --out data/01_raw
    deps: [data/inbox]
    params: [collect]
    outs: [data/01_raw/eval]
  sft:
    desc: instruction tuning
    cmd: python -m tasks.sft --params sft --rows data/01_raw/eval --out data/05_sft
    deps: [data/01_raw/eval]
    params: [seed, sft]
    outs: [data/05_sft/policy]
    metrics: [data/05_sft/metrics.json]
  rl:
    desc: policy gradients
    cmd: python -m tasks.rl --params rl --policy data/05_sft/policy --out data/10_rl
    deps: [data/01_raw/eval, data/05_sft/policy]
    params: [seed, rl]
    outs: [data/10_rl/policy]
    metrics: [data/10_rl/metrics.json]
  evaluate:
    desc: every policy on the same prompts
    cmd: python -m tasks.evaluate --sft data/05_sft/policy --policies rl=data/10_rl/policy
      --eval-prompts data/01_raw/eval --out data/12_evaluation
    deps: [data/01_raw/eval, data/05_sft/policy, data/10_rl/policy]
    params: [seed]
    outs: [data/12_evaluation/completions]
    metrics: [data/12_evaluation/scores.json]
  gate:
    desc: promote or not
    cmd: python -m tasks.gate --scores data/12_evaluation/scores.json --out data/13_gate
    deps: [data/12_evaluation/scores.json]
    params: [seed]
    outs: [data/13_gate/gate.json]
"""
PARAMS = "seed: 0\ncollect: {rows: 8}\nsft: {lr: 1e-3, note: hf_abcdefghijklmnopqrstuvwx}\nrl: {kl_coef: 0.1}\n"


def write_tree(root: Path) -> Path:
    """dvc.yaml and params.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text(PARAMS)
    write_file(root / "data/inbox/rows.jsonl", "{}\n")
    return root


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_outputs(root: Path, stage: str, gold: float = 0.5) -> None:
    """What the stage's program would write."""
    folder = root / {"collect": "data/01_raw", "sft": "data/05_sft", "rl": "data/10_rl"}.get(stage, "data/none")
    if stage == "collect":
        write_file(folder / "eval/train.jsonl", '{"id": "1"}\n')
    if stage in ("sft", "rl"):
        write_file(folder / "policy/model.safetensors", f"{stage} {gold}")
        write_file(folder / "metrics.json", json.dumps({"val": {"loss": gold}, "steps": 3}))
    if stage == "evaluate":
        rows = {"id": "1", "messages": [{"role": "user", "content": "Name a colour."}]}
        for name, worth in (("sft", 0.3), ("rl", gold)):
            said = {"text": f"blue, says {name}", "stop_reason": "stop", "gold_reward": worth}
            answer = {"completions": [said]}
            write_file(root / f"data/12_evaluation/completions/{name}.jsonl", json.dumps(rows | answer) + "\n")
        write_file(root / "data/12_evaluation/scores.json", json.dumps(scores(gold)))
    if stage == "gate":
        check = {"name": "gain_over_sft", "value": 0.1, "limit": 0.0, "passed": True}
        verdict = {"promote": True, "candidate": "rl", "against": "sft", "checks": [check]}
        verdict |= {"reason": "rl beats sft by +0.1"}
        write_file(root / "data/13_gate/gate.json", json.dumps(verdict))


def scores(gold: float) -> dict[str, Any]:
    def row(mean: float) -> dict[str, Any]:
        interval = {"mean": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1}
        return {"gold_reward": interval, "kl": interval, "win_rate_vs_sft": None}

    gain = {"mean": gold - 0.3, "ci_low": gold - 0.35, "ci_high": gold - 0.25}
    return {
        "judge": "gold",
        "policies": {"sft": row(0.3), "rl": row(gold)},
        "differences": {"sft": {"rl": {"gold_reward": gain}}},
        "evaluation_set": {"prompts": 1},
    }


def lock(root: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """A dvc.lock of the stages as the tree has them now: enough of DVC's format."""
    entries = {}
    for name, stage in stages.items():
        entries[name] = {
            "cmd": name,
            "deps": [item(root, path) for path in stage["deps"]],
            "params": {"params.yaml": stage["params"]},
            "outs": [item(root, path) for path in stage["outs"]],
        }
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": entries}))


def item(root: Path, path: str) -> dict[str, Any]:
    """One dependency or output with size and digest; folders have `.dir` digests, as DVC's do."""
    where = root / path
    if where.is_file():
        return {"path": path, "md5": hashlib.md5(where.read_bytes()).hexdigest(), "size": where.stat().st_size}
    files = sorted(file for file in where.rglob("*") if file.is_file())
    listed = [{"md5": hashlib.md5(f.read_bytes()).hexdigest(), "relpath": str(f.relative_to(where))} for f in files]
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.md5(json.dumps(listed).encode()).hexdigest()
    return {"path": path, "md5": f"{digest}.dir", "size": sum(sizes), "nfiles": len(sizes)}


def lock_everything(root: Path) -> None:
    """The lock that dvc would write after all stages."""
    lock(
        root,
        {
            "collect": {"deps": ["data/inbox"], "params": {"collect": {"rows": 8}}, "outs": ["data/01_raw/eval"]},
            "sft": {
                "deps": ["data/01_raw/eval"],
                "params": {"seed": 0, "sft": {"lr": 1e-3}},
                "outs": ["data/05_sft/policy", "data/05_sft/metrics.json"],
            },
            "rl": {
                "deps": ["data/01_raw/eval", "data/05_sft/policy"],
                "params": {"seed": 0, "rl": {"kl_coef": 0.1}},
                "outs": ["data/10_rl/policy", "data/10_rl/metrics.json"],
            },
            "evaluate": {
                "deps": ["data/01_raw/eval", "data/05_sft/policy", "data/10_rl/policy"],
                "params": {"seed": 0},
                "outs": ["data/12_evaluation/completions", "data/12_evaluation/scores.json"],
            },
            "gate": {
                "deps": ["data/12_evaluation/scores.json"],
                "params": {"seed": 0},
                "outs": ["data/13_gate/gate.json"],
            },
        },
    )


OUTS = {
    "collect": ["data/01_raw/eval"],
    "sft": ["data/05_sft/policy", "data/05_sft/metrics.json"],
    "rl": ["data/10_rl/policy", "data/10_rl/metrics.json"],
    "evaluate": ["data/12_evaluation/completions", "data/12_evaluation/scores.json"],
    "gate": ["data/13_gate/gate.json"],
}
STAGES = tuple(OUTS)
COST = {
    **{"seconds_sample": 0.125, "seconds_score": 0.125, "seconds_train": 0.25, "seconds_save": 0.25},
    **{"seconds_other": 0.25, "tokens_processed": 400.0, "tokens_trained": 300.0, "tokens_sampled": 100.0},
    **{"flops": 2e9, "matmul_rate": 1e10, "peak_memory_gib": 0.5},
}
"""Of each stage: a second in all."""


def start(root: Path, run_id: str, stage: str, **owner: Any) -> Log:
    """A journal as the stage adapter begins it, written by this process."""
    log = Log(new_folder(root, run_id, stage), stage)
    who = origin() | owner
    log.event("start", stage=stage, key="k", root=str(root), config={stage: {"lr": 0.001}, "seed": 0}, **who)
    return log


def end(log: Log, root: Path, stage: str) -> None:
    """The last line of a stage that went well."""
    used = {"cpu_seconds": 1.0, "peak_memory_gib": 0.5, "device": "cpu"}
    left = {"outs": outputs(root, OUTS[stage]), "used": used, "cost": COST}
    log.event("end", status="FINISHED", exit_code=0, reason="", **left)


def run_all(root: Path, run_id: str, gold: float = 0.5, steps: int = 3) -> None:
    """Every stage of the toy pipeline, with journals, outputs and lock."""
    for stage in STAGES:
        log = start(root, run_id, stage)
        for step in range(steps):
            log({f"{stage}/loss": 1.0 / (step + 1)}, step)
        log.table("samples", [{"prompt": "Name a colour.", "completion": f"blue {stage}"}])
        if stage == "evaluate":
            Image.new("RGB", (64, 48), "steelblue").save(root / "policies.png")
            log.file(root / "policies.png", "plots")
        make_outputs(root, stage, gold)
        end(log, root, stage)
    lock_everything(root)


def told(state: str = "ran") -> dict[str, StageResult]:
    """What a flow knows of every stage in the end, all of this state."""
    return {stage: StageResult(stage, state, 1.5) for stage in STAGES}  # type: ignore[arg-type]


def whole_run(root: Path, run_id: str = "r1", gold: float = 0.5) -> dict[str, Any]:
    """A run from its beginning to its end, told to MLflow; its ids there."""
    tracking.begin_run(root, run_id, {"name": run_id, "ref": f"refs/preflow/{run_id}", "command": "preflow run"})
    run_all(root, run_id, gold)
    return tracking.finish_run(root, run_id, told(), "FINISHED")


def client(root: Path) -> Any:
    return connect(root).client


def runs(root: Path) -> list[Any]:
    """All runs that MLflow has, the oldest first."""
    return list(client(root).search_runs(["1"], order_by=["attributes.start_time"]))


def children(root: Path, parent: str) -> dict[str, Any]:
    """The runs of a run's stages, by their names."""
    found = client(root).search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}
