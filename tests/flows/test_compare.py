"""`preflow compare` of the toy, through Prefect, DVC, git and MLflow, as a user starts it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from flows import worktrees
from flows.compare.store import folder
from tasks.tracking.store import connect
from tests.flows.compare_toy import make_toy, ran, start
from tests.flows.toy import dvc_repro, git, gone

WORDS = ("compare", "--algorithm", "ppo,dpo", "--set", "rl.kl_coef=0.05", "--name", "two")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PREFLOW_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return make_toy(tmp_path / "project")


def finished(root: Path, *words: str, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what `--json` says, and what a person reads."""
    process = start(root, *words, "--json", **variables)
    out, err = process.communicate()
    return process.returncode, json.loads(out or "{}"), err


@pytest.mark.slow
@pytest.mark.e2e
def test_stopped_failed_and_done_it_runs_nothing_twice(toy: Path, api: str) -> None:
    variables = {"PREFECT_API_URL": api}
    before = git(toy, "status", "--porcelain")
    # Stopped with Ctrl-C while the second cell trains, which ends all that it had started.
    process = start(toy, *WORDS, TOY_HANG="dpo dpo 0", **variables)
    hung = toy.parent / "toy.log.hung"
    while not (hung.exists() and hung.read_text()):
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "the same command goes on from here" in err) == (85, True)
    assert gone(int(hung.read_text()))
    # The same again, and training fails: the other cell is not touched, the table has the reason.
    code, found, err = finished(toy, *WORDS, TOY_FAIL="dpo dpo 0", **variables)
    states = {cell["name"]: (cell["state"], cell["reason"]) for cell in found["cells"]}
    assert (code, states) == (
        1, {"ppo seed 0": ("done", ""), "dpo seed 0": ("failed", "dpo: the gradients are not finite")}
    ), err  # fmt: skip
    # The same again, and it is done.
    code, found, err = finished(toy, *WORDS, **variables)
    assert code == 0, err
    assert {row["name"] for row in found["rows"]} == {*("sft", "random_control", "rejection_sampling", "ppo", "dpo")}
    assert found["differences"][0]["difference"]["ci_low"] > 0
    # Whatever is shared ran once, each method once, the failed one once more a try.
    stages = [line.split()[0] for line in ran(toy)]
    counts = {name: stages.count(name) for name in dict.fromkeys(stages)}
    assert counts == {
        "collect": 1, "sft": 1, "rejection_sampling": 1, "rl": 1, "dpo": 3, "evaluate": 2, "gate": 2
    }  # fmt: skip
    # The cells began with what the comparison did: what they share needs no ref of its own.
    assert "compare-" not in git(toy, "for-each-ref", "refs/preflow")
    # Nothing of the user's was touched, nothing is left but results, refs and the report.
    assert git(toy, "status", "--porcelain") == before
    assert not [path for path in (toy / ".preflow" / "worktrees").iterdir() if path.is_dir()]
    report = toy / "reports" / "compare" / "two"
    assert {path.name for path in report.iterdir()} == {
        *("table.md", "compare.json", "scores.png", "reward_against_kl.png")
    }
    # Once more: read from disk, without DVC, Prefect, a stage or a word to MLflow.
    made = {path: path.stat().st_mtime_ns for path in report.iterdir()}
    code, again, err = finished(toy, *WORDS, **{"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert (code, again) == (0, found), err
    assert len(ran(toy)) == len(stages)
    assert made == {path: path.stat().st_mtime_ns for path in report.iterdir()}
    _in_mlflow(toy)
    _is_an_ordinary_run(toy, found)


def _in_mlflow(toy: Path) -> None:
    """One parent, and each cell's run below it."""
    client = connect(toy).client
    (parent,) = client.search_runs(["1"], "tags.`preflow.kind` = 'comparison'")
    assert (parent.info.run_name, parent.info.status) == ("compare two", "FINISHED")
    below = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    done = [run for run in below if run.info.status == "FINISHED"]
    # A parameter that no stage of a cell reads is none of its run: dpo knows no rl.kl_coef.
    assert sorted(run.data.params.get("rl.kl_coef", "") for run in done) == ["", "0.05"]
    assert {run.data.tags["preflow.kind"] for run in below} == {"pipeline"}


def _is_an_ordinary_run(toy: Path, found: dict[str, Any]) -> None:
    """A checkout of a cell's ref is what DVC alone would have made, of a graph without the other method."""
    cell = next(cell for cell in found["cells"] if cell["algorithm"] == "dpo")
    kept = git(toy, "show", f"{cell['ref']}:dvc.lock")
    tree = worktrees.add(toy, "again", cell["ref"], with_inbox=True)
    (tree / "dvc.lock").unlink()
    dvc_repro(tree)
    assert (tree / "dvc.lock").read_text() == kept
    assert "  rl:" not in (tree / "dvc.yaml").read_text()
    assert json.loads((folder(toy) / "cells" / cell["key"] / "cell.json").read_text())["ref"] == cell["ref"]


def test_a_plan_runs_nothing(toy: Path) -> None:
    process = start(toy, *WORDS, "--seeds", "2", "--lr", "1e-3,2e-3", "--dry-run")
    out, err = process.communicate()
    assert process.returncode == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "ppo algorithms.ppo.lr=1e-3 seed 0 to run"
    assert lines[-1] == "8 of 8 cells to run; nothing like it was measured yet"
    assert not ran(toy)
    assert not (toy / ".preflow").exists()


def test_a_file_that_no_run_can_have_is_refused_before_anything_runs(toy: Path) -> None:
    (toy / ".gitignore").write_text((toy / ".gitignore").read_text() + "/own.txt\n")
    (toy / "own.txt").write_text("rows")
    graph = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(graph.replace("    - data/inbox\n", "    - data/inbox\n    - own.txt\n"))
    process = start(toy, *WORDS)
    _, err = process.communicate()
    assert (process.returncode, "own.txt: stages read it" in err) == (1, True), err
    assert not ran(toy)


def test_mistakes_are_one_sentence(toy: Path) -> None:
    for words, message in (
        (("--algorithm", "ppo,dop"), "did you mean `dpo`"),
        (("--algorithm", "ppo", "--set", "rl.kl=1"), "rl.kl: unknown key"),
        (("--algorithm", "ppo", "--name", "../x"), "--name ../x: letters, digits"),
    ):
        process = start(toy, "compare", *words)
        out, err = process.communicate()
        assert (process.returncode, out, err.count("\n")) == (2, "", 1)
        assert message in err
