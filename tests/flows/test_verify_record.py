"""`preflow verify`, of what DVC does not keep: journal, report, MLflow's artifacts and lineage, registered versions."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import sums
from tasks.tracking import boundary, registered, store
from tests.flows.again_toy import RUN
from tests.flows.toy import git
from tests.flows.verify_story import POLICY, ROWS, artifacts, cached, changed_in_mlflow, flip, md5_of, mlflow_run, said


def told(answer: dict[str, Any], what: str = "wrong") -> set[tuple[str, str, str]]:
    """Kind, the end of the name, and stage of what is wrong, or missing."""
    return {(one["kind"], one["where"].rsplit("/", 1)[-1], one["stage"]) for one in answer[what]}


@pytest.mark.faults(
    37,
    injected="one bit flipped in each of: a table and a plot in MLflow, the report there and here, a journal",
    happens="verify names each, by the SHA-256 that was written when it was logged",
)
def test_one_flipped_bit_in_each_kind_of_record(story: Path) -> None:
    clean = said(code=0)
    assert clean["notes"] == clean["missing"] == clean["wrong"] == []
    (image,) = (artifacts(story) / "images").glob("*.png")
    spoilt = [
        artifacts(story, stage="rl") / "samples.json",
        artifacts(story) / "plots/curve.png",
        image,
        artifacts(story) / "config/params.yaml",
        artifacts(story) / "report/report.html",
        artifacts(story) / "model_card.md",
        story / "reports" / RUN / "report.html",
        story / ".preflow/journal" / RUN / "rl-1/events.jsonl",
        story / ".preflow/journal" / RUN / "rl-1/files/curve.png",
    ]
    for path in spoilt:
        flip(path)
    answer = said("--fix", code=1)
    assert answer["left"] == len(answer["wrong"]) == len(spoilt)
    assert told(answer) == {
        ("artifact", "samples.json", "rl"),
        *(("artifact", name, "") for name in ("curve.png", image.name, "params.yaml", "report.html", "model_card.md")),
        ("report", "report.html", ""),
        ("journal", "events.jsonl", "rl"),
        ("journal", "curve.png", "rl"),
    }
    assert all("it was written with" in one["why"] for one in answer["wrong"])
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", artifacts(story) / "SHA256SUMS"],
        cwd=story / "mlruns/artifacts",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.stdout.count(": FAILED") == 6, "sha256sum itself does not read the list, or reads it otherwise"


def test_what_is_gone_is_wrong_and_what_was_withdrawn_is_missing(story: Path) -> None:
    journal = story / ".preflow/journal" / RUN
    (artifacts(story, stage="rl") / "samples.json").unlink()
    (journal / "rl-1/files/curve.png").unlink()
    sums.withdraw(artifacts(story) / "samples.json")
    sums.withdraw(journal / "rl-1/files/samples.json")
    answer = said(code=1)
    assert told(answer) == {("artifact", "samples.json", "rl"), ("journal", "curve.png", "rl")}
    assert told(answer, "missing") == {("artifact", "samples.json", ""), ("journal", "samples.json", "rl")}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (Path.unlink, "is not there"),
        (lambda path: path.write_text(""), "it names no files"),
        (lambda path: path.write_text(f"{'0' * 64}  ../x\n"), "it names '../x', which is not in this folder"),
        (lambda path: path.write_text(path.read_text()[:-9] + "\n" + path.read_text()[1:]), "is damaged"),
    ],
)
def test_a_list_that_is_damaged_is_no_clean_bill(spoil: Callable[[Path], object], says: str, story: Path) -> None:
    spoil(artifacts(story) / "SHA256SUMS")
    (wrong,) = said(code=1)["wrong"]
    assert wrong["kind"] == "artifact" and says in wrong["why"]


def test_a_run_of_an_older_preflow_says_that_nothing_can_be_said(story: Path) -> None:
    changed_in_mlflow(story, "delete from tags where key = 'preflow.sums'")
    for path in (artifacts(story), story / "reports" / RUN, story / ".preflow/journal" / RUN):
        (path / "SHA256SUMS").unlink()
    answer = said(code=0)
    assert len(answer["notes"]) == 3 and all("by an older preflow" in note for note in answer["notes"])


@pytest.mark.faults(
    37,
    injected="another md5 in MLflow's tags of an output, in a data set, in a model of a run",
    happens="verify names stage, path and both digests",
)
def test_lineage_in_mlflow_is_that_of_dvc_lock(story: Path) -> None:
    scores = "data/eval/scores.json"
    other = "0" * 32
    changed_in_mlflow(
        story,
        f"update tags set value = ? where key = 'dvc.out.{scores}' and run_uuid = ?",
        *(other, mlflow_run(story, stage="evaluate")),
    )
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["stage"]) == ("lineage", "evaluate")
    assert wrong["why"] == f"says {scores} has md5 {other}, dvc.lock says {md5_of(story, scores)}"
    changed_in_mlflow(story, "update datasets set digest = ? where name = ?", f"{other}.dir", ROWS)
    changed_in_mlflow(story, "update logged_model_tags set tag_value = ? where tag_key = 'dvc.md5'", f"{other}.dir")
    answer = said(code=1)
    assert {one["kind"] for one in answer["wrong"]} == {"lineage"}
    assert {one["stage"] for one in answer["wrong"] if ROWS in one["why"]} == {"rl", ""}
    assert {one["stage"] for one in answer["wrong"] if POLICY in one["why"]} == {"rl", "evaluate", ""}


def test_a_version_that_the_registry_has_otherwise(story: Path) -> None:
    changed_in_mlflow(story, "update model_version_tags set value = ? where key = 'dvc.md5'", "0" * 32 + ".dir")
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["where"]) == ("version", "policy/1")
    assert md5_of(story, POLICY) in wrong["why"]
    changed_in_mlflow(
        story,
        "update model_version_tags set value = replace(value, ?, ?) where key = 'digests'",
        *(md5_of(story, ROWS), "1" * 32),
    )
    assert [ROWS in one["why"] for one in said("--fix", code=1)["wrong"]] == [False, True]


def moved_on(root: Path) -> None:
    """The checkout has another dvc.lock: rl and what follows are still to run."""
    (root / "dvc.lock").write_text((root / "dvc.lock").read_text().partition("  rl:\n")[0])
    shutil.rmtree(root / "data/rl")
    shutil.rmtree(root / "data/eval")


def test_the_weights_of_a_version_that_the_checkout_has_not(story: Path) -> None:
    weights = cached(story, POLICY, "weights")
    moved_on(story)
    flip(weights)
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["stage"]) == ("object", "policy/1")
    answer = said("--fix", code=0)
    assert [one["mended"] for one in answer["wrong"]] == ["fetched from the DVC remote"]
    weights.unlink()
    answer = said(code=0)
    assert told(answer, "missing") == {("version", "1", "")}


@pytest.mark.faults(
    37,
    injected="a bit flipped in the cache of a past run, whose outputs the checkout has not",
    happens="verify RUN names it; --fix fetches it from the DVC remote; what was pruned is named as missing",
)
def test_a_past_run_by_its_name(story: Path) -> None:
    scores = cached(story, "data/eval/scores.json")
    moved_on(story)
    assert said(RUN, code=0)["missing"] == []
    flip(scores)
    assert said(code=0)["wrong"] == [], "it is another run's"
    (wrong,) = said("policy/1", code=1)["wrong"]
    assert (wrong["kind"], wrong["stage"], wrong["where"].rpartition("/")[2]) == ("object", "evaluate", scores.name)
    assert [one["mended"] for one in said(RUN, "--fix", code=0)["wrong"]] == ["fetched from the DVC remote"]
    scores.unlink()
    assert told(said(RUN, code=0), "missing") == {("object", "scores.json", "evaluate")}


def test_a_run_that_was_pruned_is_missing_and_its_artifacts_are_hashed(story: Path) -> None:
    table = artifacts(story, stage="rl") / "samples.json"
    git(story, "update-ref", "-d", f"refs/preflow/runs/{RUN}")
    shutil.rmtree(story / ".preflow/journal" / RUN)
    shutil.rmtree(story / "reports" / RUN)
    assert told(said(RUN, code=0), "missing") == {("run", RUN, ""), ("journal", RUN, ""), ("report", RUN, "")}
    flip(table)
    assert told(said(RUN, code=1)) == {("artifact", "samples.json", "rl")}


def test_a_run_that_was_deleted_in_mlflow_is_missing_there(story: Path) -> None:
    changed_in_mlflow(story, "update runs set lifecycle_stage = 'deleted' where run_uuid = ?", mlflow_run(story))
    answer = said(code=0)
    assert told(answer, "missing") == {("run", f"MLflow run {mlflow_run(story)}", "")}


def test_an_mlflow_that_is_away_is_said(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = said(code=0)
    assert [note.partition(":")[0] for note in answer["notes"]] == [
        f"what MLflow has of {RUN} was not looked at",
        "promoted versions were not looked at",
    ]


def behind_a_server(monkeypatch: pytest.MonkeyPatch, download: Callable[[str], None]) -> None:
    """MLflow's artifacts come by its client, as those of a server do; `download` is told of each file first."""

    class Served(store._InTime):
        def download_artifacts(self, run: str, path: str, place: str) -> Any:
            def fetch() -> Any:
                download(path)
                return self._client.download_artifacts(run, path, place)

            return store.asked(fetch, path)

    def connect(root: Path) -> store.Store:
        opened = store.connect(root)
        return replace(opened, client=Served(opened.client, "the server"), database=None)

    monkeypatch.setattr(registered, "connect", connect)


@pytest.mark.parametrize("path", ["model_card.md", "SHA256SUMS"])
def test_an_artifact_that_did_not_come_is_not_called_damaged(
    path: str, story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(asked: str) -> None:
        if asked == path:
            raise ConnectionResetError("cut off")

    behind_a_server(monkeypatch, cut)
    answer = said(code=0)
    assert answer["wrong"] == []
    assert answer["notes"] == [
        f"artifact {mlflow_run(story)}/artifacts/{path} could not be looked at: ConnectionResetError: cut off"
    ]


def test_a_slow_server_has_its_time_for_each_folder(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file takes a fifth of what MLflow has in all elsewhere, and there are more than five."""
    clock = SimpleNamespace(now=0.0, files=0)

    def slow(_: str) -> None:
        clock.now += boundary.PATIENCE / 5
        clock.files += 1

    behind_a_server(monkeypatch, slow)
    monkeypatch.setattr(boundary, "time", SimpleNamespace(monotonic=lambda: clock.now))
    answer = said(code=0)
    assert (answer["wrong"], answer["notes"]) == ([], []) and clock.files > 5
