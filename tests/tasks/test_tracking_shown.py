"""What a reader of MLflow sees first: headline numbers, params that differ, plots, the prepared view, model cards."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric

from tasks import tracking
from tasks.lineage import read_tree
from tasks.outcome import StageResult
from tasks.tracking import closing, curves, pictures, views
from tasks.tracking.card import LIMIT, card
from tasks.tracking.headlines import gain
from tasks.tracking.store import connect

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy


def run(root: Path, run_id: str, state: str = "ran", gold: float = 0.5, **info: Any) -> dict[str, Any]:
    tracking.begin_run(root, run_id, {"ref": f"refs/preflow/{run_id}", "command": "preflow run"} | info)
    if state == "ran":
        toy.run_all(root, run_id, gold)
    results = {stage: StageResult(stage, state, 1.5) for stage in toy.STAGES}  # type: ignore[arg-type]
    return tracking.finish_run(root, run_id, results, "FINISHED")


def files(client: Any, run_id: str, folder: str | None = None) -> list[str]:
    return [file.path for file in client.list_artifacts(run_id, folder)]


def test_the_first_section_says_gain_promotion_time_and_what_was_new(root: Path) -> None:
    ids, client = run(root, "r1", gold=0.5), connect(root).client
    first = {name: value for name, value in client.get_run(ids["run"]).data.metrics.items() if "/" not in name}
    assert first.pop("seconds") >= 0
    gains = {"gold_gain": 0.2, "gold_gain_low": 0.15, "gold_gain_high": 0.25}
    assert first == gains | {"promoted": 0.0, "stages_ran": 5.0, "stages_cached": 0.0}
    tracking.promote(root, "r1", "rl")
    assert client.get_run(ids["run"]).data.metrics["promoted"] == 1.0
    again = client.get_run(run(root, "r2", "cached")["run"]).data.metrics
    assert (again["stages_ran"], again["stages_cached"], again["gold_gain"], again["promoted"]) == (0.0, 5.0, 0.2, 0.0)


def test_a_gain_is_the_paired_one_of_the_judge() -> None:
    def paired(mean: float) -> dict[str, float]:
        return {"mean": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1}

    differences = {"champion": {"rl": {"gold_reward": paired(9.0), "held_out_reward": paired(0.25)}}}
    scores = {"judge": "held_out_rm", "policies": {}, "differences": differences}
    gate = {"candidate": "rl", "against": "champion"}
    assert gain(scores, gate) == {
        "held_out_rm_gain": 0.25,
        "held_out_rm_gain_low": 0.15,
        "held_out_rm_gain_high": 0.35,
    }
    assert gain(scores, gate | {"against": "sft"}) == gain(scores, None) == gain(None, gate) == {}


def test_params_of_the_parent_are_those_that_some_stage_reads(root: Path) -> None:
    params = {"seed": 0, "collect": {"rows": 8}, "sft": {"lr": 1e-3}, "rl": {"kl_coef": 0.3}}
    unread = {"algorithms": {"grpo": {"lr": 1.0}}, "registry": {"name": "policy"}}
    ids = run(root, "r1", params=params | unread)
    found = connect(root).client.get_run(ids["run"]).data.params
    assert found == {"seed": "0", "collect.rows": "8", "sft.lr": "0.001", "rl.kl_coef": "0.3"}


def test_the_parent_shows_data_models_and_plots_of_all_stages(root: Path) -> None:
    ids, client = run(root, "r1"), connect(root).client
    parent, digests = client.get_run(ids["run"]), read_tree(root).digests()
    read = {each.dataset.name: each.dataset.digest for each in parent.inputs.dataset_inputs}
    assert read == {"data/01_raw/eval": digests["data/01_raw/eval"]}
    made = {client.get_logged_model(each.model_id).name for each in parent.outputs.model_outputs}
    assert made == {"sft", "rl"}
    assert files(client, ids["run"], "plots") == ["plots/policies.png"]
    images = files(client, ids["run"], "images")
    assert len(images) == 2  # one, and MLflow's small copy of it
    assert all(path.startswith("images/plots~evaluate policies+step+0+") for path in images)
    assert parent.data.tags["mlflow.loggedImages"]


def test_a_cached_stage_shows_the_curves_tables_and_plots_of_the_run_that_made_it(root: Path) -> None:
    made, light, client = run(root, "r1"), run(root, "r2", "cached"), connect(root).client
    one, other = (client.get_run(ids["stages"]["evaluate"]) for ids in (made, light))
    for name in ("samples.json", "plots"):
        assert name in files(client, other.info.run_id)
    assert files(client, other.info.run_id, "plots") == files(client, one.info.run_id, "plots")
    assert other.data.tags["mlflow.loggedArtifacts"] == one.data.tags["mlflow.loggedArtifacts"]
    curve = client.get_metric_history(light["stages"]["rl"], "rl/loss")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert not any(name.startswith("system/") for name in other.data.metrics)  # it used no machine
    assert files(client, light["run"], "plots") == ["plots/policies.png"]


def test_what_a_cached_stage_shows_is_copied_and_not_drawn_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, client = run(root, "r1"), connect(root).client
    monkeypatch.setattr(pictures, "_draw", None)
    light = run(root, "r2", "cached")
    images = files(client, light["run"], "images")
    assert images == files(client, made["run"], "images") and len(images) == 2
    assert client.get_run(light["run"]).data.tags["mlflow.loggedImages"] == "True"
    for path in ("samples.json", "plots/policies.png"):
        one, other = (Path(client.download_artifacts(ids["stages"]["evaluate"], path)) for ids in (made, light))
        assert one.read_bytes() == other.read_bytes() and not other.samefile(one)


@pytest.mark.parametrize("within", [True, False])
def test_curves_are_copied_whole_within_the_file_and_by_mlflow(
    root: Path, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    made, store = run(root, "r1"), connect(root)
    light, client = run(root, "r2", "cached"), store.client
    if not within:
        monkeypatch.setattr(curves, "_within_the_file", lambda *_: False)
    origin, child = (ids["stages"]["sft"] for ids in (made, light))
    client.log_batch(origin, [Metric("sft/other", value, 7, step) for step, value in enumerate((1.0, math.nan, -2.0))])
    for _ in range(2):  # twice is once
        curves.copy_curves(store, origin, child, ["sft/loss", "sft/other"])
    for name in ("sft/loss", "sft/other"):
        one, other = (
            [(point.step, str(point.value), point.timestamp) for point in client.get_metric_history(each, name)]
            for each in (origin, child)
        )
        assert one == other and len(one) == 3
    assert client.get_run(child).data.metrics["sft/other"] == -2.0


def test_a_plot_that_somebody_deleted_fails_no_record(root: Path) -> None:
    made, client = run(root, "r1"), connect(root).client
    for path in (root / "mlruns/artifacts" / made["stages"]["evaluate"]).rglob("*.png"):
        path.unlink()
    light = run(root, "r2", "cached")
    assert client.get_run(light["run"]).info.status == "FINISHED"
    assert files(client, light["run"], "plots") == []


def test_the_experiment_has_a_note_and_a_view_of_its_columns(root: Path) -> None:
    ids, client = run(root, "r1"), connect(root).client
    tags = client.get_experiment(ids["experiment"]).tags
    assert views.link(ids["experiment"]) in tags["mlflow.note.content"]
    assert len(tags[views.TAG]) < 5000  # what MLflow takes as a tag of an experiment
    view = json.loads(tags[views.TAG])
    metrics = client.get_run(ids["run"]).data.metrics
    columns = [name.split("`")[1] for name in view["selectedColumns"] if name.startswith("metrics.")]
    assert columns[:3] == ["gold_gain", "gold_gain_low", "promoted"]
    assert set(columns) <= set(metrics)
    drawn = {chart["metricKey"] for chart in view["compareRunCharts"] if chart["type"] == "BAR"}
    assert drawn <= set(metrics)
    found = client.search_runs([ids["experiment"]], view["searchFilter"])
    assert [each.info.run_id for each in found] == [ids["run"]]


def test_a_version_has_a_card_that_any_database_takes(root: Path) -> None:
    ids, client = run(root, "r1"), connect(root).client
    tracking.promote(root, "r1", "rl")
    text = client.get_model_version("policy", "1").description
    for line in (
        "rl beats sft by +0.1",
        "Policy `rl` of run `r1`, kept as `refs/preflow/r1`.",
        "| **rl** ★&emsp; | 0.50 ± 0.10",
        "### Gate, against sft",
        "| ✓&emsp; | gain_over_sft&emsp; | 0.1&emsp; | 0 |",
        "Measured on 1 answers to held-out prompts",
        "`preflow reproduce policy/1`",
        "| sft&emsp; | instruction tuning&emsp; | lr 0.001, seed 0 |",
        "| rl&emsp; | policy gradients&emsp; | kl_coef 0.1, seed 0 |",
    ):
        assert line in text
    assert text == Path(client.download_artifacts(ids["run"], "model_card.md")).read_text()
    assert len(card(read_tree(root), "rl", "r" * 9000, None, "policy", 1)) == LIMIT


def test_the_card_counts_rows_and_names_licences(root: Path) -> None:
    graph = (root / "dvc.yaml").read_text()
    validate = """  validate:
    cmd: python -m tasks.validate --out data/03_validated
    deps: [data/01_raw/eval]
    outs: [data/03_validated/preferences]
    metrics: [data/03_validated/metrics.json]
"""
    collect = "    outs: [data/01_raw/eval]\n"
    more = "    outs: [data/01_raw/eval, data/01_raw/preferences]\n"
    (root / "dvc.yaml").write_text(graph.replace(collect, more, 1).replace("  sft:\n", f"{validate}  sft:\n", 1))
    for stage in toy.STAGES:
        toy.make_outputs(root, stage)
    origin = {"p.csv": {"name": "p", "origin": "given/p.csv", "revision": "r7", "licence": "CC-BY-4.0"}}
    toy.write_file(root / "data/01_raw/preferences/origin.json", json.dumps(origin))
    toy.write_file(root / "data/03_validated/preferences/train.jsonl", "{}\n")
    counts = {"preferences": {"clean": 1234, "rows": 1240, "set_aside": 6}, "passed": True}
    toy.write_file(root / "data/03_validated/metrics.json", json.dumps(counts))
    (root / "params.yaml").write_text(toy.PARAMS + "base: {source: scratch}\n")
    outs = ["data/03_validated/preferences", "data/03_validated/metrics.json"]
    toy.lock(root, {"validate": {"deps": ["data/01_raw/eval"], "params": {}, "outs": outs}})
    md5 = read_tree(root).digests()["data/03_validated/preferences"]
    text = card(read_tree(root), "rl", "r1", None, "policy", 1)
    assert f"| preferences&emsp; | 1,234&emsp; | 6&emsp; | `{md5[:12]}` |" in text
    assert "| preferences&emsp; | p.csv (given/p.csv)&emsp; | r7&emsp; | CC-BY-4.0 |" in text
    assert "a small model trained from nothing on the corpus" in text


def test_a_page_that_is_written_while_another_closes_the_run_is_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wrote it does not know that the run was told, and so attaches nothing."""
    end = closing._Closing.close

    def close(self: closing._Closing) -> None:
        end(self)
        toy.write_file(root / "reports/r1/report.html", "a page")

    monkeypatch.setattr(closing._Closing, "close", close)
    ids = run(root, "r1")
    folder = root / "mlruns/artifacts" / ids["run"] / "artifacts"
    assert (folder / "report/report.html").read_text() == "a page"
    assert f"{ids['run']}/artifacts/report/report.html\n" in (folder / "SHA256SUMS").read_text()


def test_a_list_of_artifacts_is_replaced_and_never_half_written(root: Path) -> None:
    """Whoever reads it meanwhile, or is left with it by a full disk, has the one before."""
    ids = run(root, "r1")
    listed = root / "mlruns/artifacts" / ids["run"] / "artifacts/SHA256SUMS"
    before = listed.read_text()
    toy.write_file(root / "reports/r1/report.html", "a page")
    with listed.open() as opened:
        tracking.attach(root, "r1", root / "reports/r1/report.html")
        assert opened.read() == before != listed.read_text()
