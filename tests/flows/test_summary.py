"""The last lines of a run: what came of it, where to look, how to go on."""

from pathlib import Path
from typing import Any

import pytest

from flows import server
from flows.request import Report
from flows.summary import summary

RUN = "20261128-193000-ab12"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    monkeypatch.setattr(server, "running", lambda _: None)
    return tmp_path


def stage(name: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"name": name, "state": state, "seconds": 1.0, "reason": reason, "exit_code": 0}


def lines(root: Path, capsys: pytest.CaptureFixture[str], **facts: Any) -> list[str]:
    summary(root, Report(RUN, ref=f"refs/preflow/runs/{RUN}", seconds=83.4, **facts), root, to_stdout=True)
    return capsys.readouterr().out.splitlines()


def test_a_run_that_is_done_says_where_to_look_and_ends_with_what_came_of_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = root / "reports" / RUN / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    told = lines(
        root,
        capsys,
        stages=[stage("sft", "ran"), stage("rl", "ran"), stage("base", "cached")],
        page=str(page),
        mlflow={"run": "abc", "experiment": "1", "stages": {}},
        prefect="http://127.0.0.1:4200/runs/flow-run/x",
        promotion={"promoted": True, "reason": "promoted policy v3"},
    )
    assert told == [
        f"run {RUN}: 2 ran, 1 cached, 1:23",
        f"  kept as    refs/preflow/runs/{RUN}",
        f"  again      preflow reproduce {RUN}",
        f"  report     reports/{RUN}/report.html",
        "  MLflow     make ui   http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "  Prefect    http://127.0.0.1:4200/runs/flow-run/x",
        "promoted policy v3",
    ]


def test_a_run_without_anything_to_do_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(root, capsys, stages=[stage("sft", "cached"), stage("rl", "cached")])
    assert told[0] == f"run {RUN}: nothing to do, 2 cached, 1:23"


def test_a_run_that_failed_says_why_once_and_where_its_logs_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "loss is nan at step 7; lower rl.lr"
    told = lines(
        root, capsys, exit_code=86, stages=[stage("rl", "failed", reason), stage("gate", "skipped", "needs rl")]
    )
    assert told == [
        f"run {RUN}: 1 failed, 1 skipped, 1:23",
        f"  kept as    refs/preflow/runs/{RUN}",
        "  MLflow     make ui",
        f"  logs       {root}/.preflow/journal/{RUN}",
        f"rl failed: {reason}",
    ]


def test_refused_data_ends_with_where_the_rows_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [stage("validate", "failed", "no")]
    told = lines(root, capsys, exit_code=3, validation="reports/r/validation", stages=stages)
    assert told[-2:] == ["validate failed: no", "what was refused, and why: reports/r/validation/report.html"]
    assert sum("report.html" in line for line in told) == 1


def test_a_page_that_the_gate_has_named_is_not_named_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "verdict, quarantine and page: /home/me/reports/r/validation/annotate/report.html"
    stages = [stage("annotate", "failed", f"the data was refused\n{page}")]
    told = lines(root, capsys, exit_code=3, validation="/home/me/reports/r/validation", stages=stages)
    assert told[-2:] == ["annotate failed: the data was refused", page]
    assert sum("report.html" in line for line in told) == 1


def test_a_run_that_was_stopped_says_how_to_go_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(root, capsys, exit_code=85, stages=[stage("rl", "stopped", "before it was done")])
    assert told[-1] == "stopped in rl; the same command goes on from there"
    assert not any("failed" in line for line in told)
