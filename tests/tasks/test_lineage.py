"""Lineage and registry in MLflow, from dvc.yaml and dvc.lock."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DependencyDown, PreflowError
from tasks import tracking
from tasks.graph import load_graph
from tasks.lineage import matches, policies_of, read_tree
from tasks.outcome import StageResult
from tasks.tracking import artifacts, registered, registry
from tasks.tracking.runs import RunRecord
from tasks.tracking.store import connect
from tasks.witness import outputs

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


def run(root: Path, run_id: str, gold: float = 0.5) -> dict[str, Any]:
    tracking.begin_run(root, run_id, {"ref": f"refs/preflow/{run_id}", "commit": "c0ffee"})
    toy.run_all(root, run_id, gold, steps=1)
    results = {stage: StageResult(stage, "ran", 1.0) for stage in toy.STAGES}
    return tracking.finish_run(root, run_id, results, "FINISHED")


def test_inputs_and_outputs_are_those_of_the_lock(root: Path) -> None:
    ids = run(root, "r1")
    client, digests = connect(root).client, read_tree(root).digests()
    sft, rl = (client.get_run(ids["stages"][stage]) for stage in ("sft", "rl"))
    data = rl.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest) == ("data/01_raw/eval", digests["data/01_raw/eval"])
    from mlflow.data import get_source

    assert get_source(rl.inputs.dataset_inputs[0]).uri == f"dvc://data/01_raw/eval?md5={data.digest}"
    made = [output.model_id for output in sft.outputs.model_outputs]
    assert [model.model_id for model in rl.inputs.model_inputs] == made
    model = client.get_logged_model(made[0])
    assert (model.name, model.source_run_id) == ("sft", sft.info.run_id)
    assert model.tags["dvc.md5"] == digests["data/05_sft/policy"]
    assert rl.data.tags["dvc.out.data/10_rl/policy"] == digests["data/10_rl/policy"]


def test_every_edge_of_the_graph_is_an_edge_in_mlflow(root: Path) -> None:
    ids = run(root, "r1")
    client, graph = connect(root).client, load_graph(root)
    made = {}
    for stage, run_id in ids["stages"].items():
        outputs = client.get_run(run_id).outputs
        made |= {output.model_id: stage for output in (outputs.model_outputs if outputs else [])}
    seen = set()
    for stage, run_id in ids["stages"].items():
        found = client.get_run(run_id)
        paths = [each.dataset.name for each in found.inputs.dataset_inputs]
        seen |= {(graph.producer(path), stage) for path in paths if graph.producer(path)}
        seen |= {(made[model.model_id], stage) for model in found.inputs.model_inputs}
    assert seen == {(before, stage) for stage in graph.stages for before in graph.upstream[stage]}


def test_weights_are_not_copied(root: Path) -> None:
    run(root, "r1")
    assert not list((root / "mlruns").rglob("*.safetensors"))


def test_scores_are_tied_to_model_and_evaluation_set(root: Path) -> None:
    run(root, "r1", gold=0.7)
    digest = read_tree(root).digests()["data/01_raw/eval"]
    found = connect(root).client.search_logged_models(["1"], "name = 'rl'")
    scores = {metric.key: metric for metric in found[0].metrics}
    assert scores["eval/gold_reward"].value == 0.7
    assert scores["eval/gold_reward"].dataset_digest == digest


def test_a_lock_matches_only_what_was_written(root: Path) -> None:
    for stage in toy.STAGES:
        toy.make_outputs(root, stage)
    toy.lock_everything(root)
    written = outputs(root, toy.OUTS["rl"])
    assert matches(read_tree(root), "rl", written)
    toy.write_file(root / "data/10_rl/metrics.json", '{"val": {"loss": 0.6}, "steps": 3}')  # same size, other bytes
    assert not matches(read_tree(root), "rl", outputs(root, toy.OUTS["rl"]))
    assert not matches(read_tree(root), "rl", {})


def test_a_stage_locked_with_other_inputs_is_not_consistent(root: Path) -> None:
    for stage in toy.STAGES:
        toy.make_outputs(root, stage)
    toy.lock_everything(root)
    text = (root / "dvc.lock").read_text()
    digest = read_tree(root).digests()["data/05_sft/policy"]
    stale = text.replace(digest, "0" * 32 + ".dir", 1)  # sft was run again, rl not yet
    (root / "dvc.lock").write_text(stale)
    tree = read_tree(root)
    assert [stage for stage in toy.STAGES if not tree.consistent(stage)] == ["rl", "evaluate"]


def test_policies_are_named_as_the_evaluation_names_them() -> None:
    graph = load_graph(Path(__file__).parents[2])
    found = policies_of(graph)
    assert found["rl"] == "data/10_rl/policy"
    assert found["random_control"] == "data/09_rejection_sampling/random_control"
    assert set(found) == {"base", "sft", "rejection_sampling", "random_control", "rl", "dpo"}


def test_promotion_moves_the_alias_and_remembers_everything(root: Path) -> None:
    assert tracking.champion(root) is None
    with pytest.raises(PreflowError, match="no model `policy` is registered; there are: none"):
        tracking.version(root, "policy")
    run(root, "r1")
    assert tracking.promote(root, "r1", "rl") == 1
    first = tracking.champion(root)
    assert first is not None
    assert (first["version"], first["ref"], first["candidate"]) == (1, "refs/preflow/r1", "rl")
    assert first["md5"] == first["digests"]["data/10_rl/policy"]
    run(root, "r2", gold=0.9)
    assert tracking.champion(root) == first  # a run alone, or a refused gate, changes nothing
    assert tracking.promote(root, "r2", "rl") == 2
    assert (tracking.champion(root) or {})["run"] == "r2"
    version = connect(root).client.get_model_version("policy", "2")
    assert version.source.startswith("models:/m-")
    assert "★" in version.description
    assert tracking.version(root, "policy", 1) == first
    assert tracking.version(root, "policy") == tracking.champion(root)
    for asked, sentence in (
        (("policy", 3), r"`policy` has no version 3; it has the versions 1, 2: name one as policy/2"),
        (("policy", None, "best"), "`policy` has no alias `best`"),
        (("polcy",), "no model `polcy` is registered; there are: policy"),
    ):
        with pytest.raises(PreflowError, match=sentence):
            tracking.version(root, *asked)  # type: ignore[arg-type]


def test_the_file_and_mlflow_tell_the_same_of_the_registry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, gold in enumerate((0.5, 0.7, 0.9)):
        run(root, f"r{number}", gold=gold)
        tracking.promote(root, f"r{number}", "rl")
    tracking.crown(root, "policy", 2, {"rollback.from": "3"})
    client = connect(root).client
    client.delete_model_version("policy", "1")
    client.create_registered_model("empty")
    read = registered.models(root)
    assert (read["policy"].aliases, [*read["policy"].versions]) == ({"champion": 2}, [3, 2])
    assert read["policy"].versions[2]["rollback.from"] == "3" and read["empty"] == registered.Model()
    monkeypatch.setattr(registered, "_read", lambda _: None)
    assert registered.models(root) == read


def test_of_many_versions_a_server_is_asked_for_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where all are wanted, for every page of them: MLflow's end at 10,000."""
    client, received = connect(root).client, []
    whole = client.search_model_versions
    tags = dict.fromkeys(("preflow.run", "candidate", "dvc.path", "dvc.lock.sha256"), "x") | {"digests": "{}"}
    client.create_registered_model("policy")
    for number in range(1, 6):
        client.create_model_version("policy", "dvc://data/10_rl/policy", tags=tags | {"dvc.md5": f"bytes {number}"})
    client.set_registered_model_alias("policy", "champion", "1")

    def search(*asked: Any, **further: Any) -> Any:
        page = whole(*asked, **{"max_results": 2} | further)
        received.extend(page)
        return page

    monkeypatch.setattr(registered, "_read", lambda _: None)
    monkeypatch.setattr(client, "search_model_versions", search)
    assert (tracking.champion(root) or {})["md5"] == "bytes 1"
    assert tracking.version(root, "policy", 3)["md5"] == "bytes 3"
    assert tracking.champion(root, "polcy") is None
    assert tracking.knows(root, "policy") and not tracking.knows(root, "polcy")
    assert tracking.holding(root, "policy", "bytes 2") == 2
    assert len(received) <= 2
    assert sorted(one["version"] for one in tracking.versions(root)) == [1, 2, 3, 4, 5]
    with pytest.raises(PreflowError, match=r"`policy` has no version 6; it has the versions 1, 2, 3, 4, 5"):
        tracking.version(root, "policy", 6)


def test_looking_at_the_registry_of_a_file_imports_no_mlflow(root: Path) -> None:
    run(root, "r1")
    tracking.promote(root, "r1", "rl")
    program = (
        "import sys; from pathlib import Path; from tasks import tracking; root = Path(sys.argv[1])\n"
        "assert tracking.champion(root)['version'] == tracking.versions(root)[0]['version'] == 1\n"
        "assert tracking.knows(root, 'policy') and 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, root], cwd=REPO, check=True)


def test_the_same_bytes_are_one_version(root: Path) -> None:
    run(root, "r1")
    assert tracking.promote(root, "r1", "rl") == 1
    before = (tracking.champion(root) or {})["lock"]
    md5 = tracking.bytes_of(root, "rl") or ""
    assert (tracking.holding(root, "policy", md5), tracking.holding(root, "policy", "other")) == (1, None)
    assert (tracking.knows(root, "policy"), tracking.knows(root, "polcy")) == (True, False)
    # The gate alone has run again, say: another lock file, the same policy.
    (root / "dvc.lock").write_text((root / "dvc.lock").read_text() + "\n")
    tracking.begin_run(root, "r2", {"ref": "refs/preflow/r2", "commit": "c1"})
    cached = {stage: StageResult(stage, "cached") for stage in toy.STAGES}
    ids = tracking.finish_run(root, "r2", cached, "FINISHED", "c2")
    assert tracking.promote(root, "r2", "rl") == 1
    found = tracking.champion(root) or {}
    assert (found["run"], found["ref"], found["commit"]) == ("r2", "refs/preflow/r2", "c2")
    assert found["lock"] == hashlib.sha256((root / "dvc.lock").read_bytes()).hexdigest() != before
    assert found["md5"] == tracking.bytes_of(root, "rl")
    assert connect(root).client.get_run(ids["run"]).data.tags["git.commit"] == "c2"
    tracking.crown(root, "policy", 1, {"rollback.from": "2"})
    assert connect(root).client.get_model_version("policy", "1").tags["rollback.from"] == "2"


def test_nobody_is_promoted_by_a_wrong_name(root: Path) -> None:
    run(root, "r1")
    with pytest.raises(PreflowError, match=r"cannot promote `grpo`.*it has: rl, sft"):
        tracking.promote(root, "r1", "grpo")


def test_a_registry_that_does_not_answer_is_not_an_empty_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(registered, "connect", refuse)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(DependencyDown, match="refused"):
        tracking.champion(root)


def test_a_page_that_comes_while_a_run_is_promoted_stays_in_the_list(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else is at the record of the run when the list is written."""
    ids = run(root, "r1")
    page = root / "reports/r1/report.html"
    toy.write_file(page, "a page")
    card, seal, free = registry.card, artifacts.seal, []

    def slow_card(*given: Any) -> str:
        tracking.attach(root, "r1", page)
        return card(*given)

    def watched_seal(*given: Any) -> None:
        with RunRecord.read(root, "r1").exclusive(wait=False) as mine:
            free.append(mine)
        seal(*given)

    monkeypatch.setattr(registry, "card", slow_card)
    monkeypatch.setattr(artifacts, "seal", watched_seal)
    tracking.promote(root, "r1", "rl")
    listed = set(RunRecord.read(root, "r1").state()["sums"])
    assert {f"{ids['run']}/artifacts/{name}" for name in ("report/report.html", "model_card.md")} <= listed
    assert free == [False, False]
