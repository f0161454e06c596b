"""`dvc repro` typed by hand: real dvc, real stage adapter, and what MLflow shows afterwards."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.lineage import read_tree
from tasks.tracking.runs import runs_of
from tasks.tracking.store import connect
from tasks.witness import outputs

REPO = Path(__file__).parents[2]
STAGE = """
from pathlib import Path
from pydantic import Field
from tasks.config import Section
from tasks.journal import Log
from tasks.stage import main


class Knobs(Section):
    lr: float = Field(1e-3, description="a number")


def {name}(config: Knobs, *, source: Path, out: Path, log: Log) -> None:
    log({{"{name}/loss": config.lr}}, step=1)
    (out / "policy").mkdir()
    (out / "policy" / "model.safetensors").write_text(f"{{config.lr}}")


if __name__ == "__main__":
    main({name})
"""
GRAPH = """
stages:
  first:
    cmd: python first.py --params first --source rows.jsonl --out data/first
    deps: [rows.jsonl]
    params: [first]
    outs: [data/first/policy]
  second:
    cmd: python second.py --params second --source data/first/policy --out data/second
    deps: [data/first/policy]
    params: [second]
    outs: [data/second/policy]
"""


@pytest.fixture
def root(store_root: Path) -> Path:
    for name in ("first", "second"):
        (store_root / f"{name}.py").write_text(STAGE.format(name=name))
    (store_root / "dvc.yaml").write_text(GRAPH)
    (store_root / "params.yaml").write_text("first: {lr: 1}\nsecond: {lr: 2}\n")
    (store_root / "rows.jsonl").write_text("rows")
    (store_root / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    dvc(store_root, "init", "--no-scm", "--quiet")
    return store_root


def dvc(root: Path, *words: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(REPO), "PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def parents(root: Path) -> list[Any]:
    return list(
        connect(root).client.search_runs(["1"], "tags.`preflow.kind` = 'pipeline'", order_by=["attributes.start_time"])
    )


def children(root: Path, parent: Any) -> dict[str, Any]:
    found = connect(root).client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {run.info.run_name: run for run in found}


def test_each_repro_is_a_run_with_its_skipped_stages(root: Path) -> None:
    dvc(root, "repro")
    (root / "params.yaml").write_text("first: {lr: 1}\nsecond: {lr: 3}\n")
    dvc(root, "repro")
    tracking.reconcile(root)  # waits for the follower where that is at work
    assert runs_of(root) == []
    one, two = parents(root)
    assert [run.info.status for run in (one, two)] == ["FINISHED", "FINISHED"]
    assert one.info.run_name == "dvc repro"
    assert set(children(root, one)) == {"first", "second"}
    second = children(root, two)
    assert set(second) == {"first (cached)", "second"}
    assert second["second"].data.metrics["second/loss"] == 3.0
    made = children(root, one)["first"]
    assert second["first (cached)"].data.tags["cached_from"] == made.info.run_id
    read = [model.model_id for model in connect(root).client.get_run(second["second"].info.run_id).inputs.model_inputs]
    assert read == [model.model_id for model in made.outputs.model_outputs]


def test_digests_are_those_of_dvc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOW_RUN", "test")  # nobody follows
    (root / "rows.jsonl").write_text("other rows")
    dvc(root, "repro", "--quiet", "first")
    for item in read_tree(root).outs("first"):
        assert outputs(root, [item.path])[item.path]["md5"] == item.md5
