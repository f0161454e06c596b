"""The end of a run where MLflow hangs: it is left, and a line says how the rest is told."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import closing, profiles
from flows.request import Report, Run, Wish
from flows.runner import Place
from flows.workspace import Snapshot
from tasks.graph import load_graph
from tasks.outcome import StageResult
from tests.flows.toy import Nobody


class Hanging(Nobody):
    """Takes nothing until it is let go, or nobody has left it in a minute."""

    def __init__(self, on_call: Callable[[], None]) -> None:
        self.on_call, self.released, self.waited_for = on_call, threading.Event(), False

    def finish_run(self, *_: object) -> dict[str, Any]:
        self.on_call()
        self.waited_for = not self.released.wait(60.0)
        return {}


@pytest.mark.parametrize("ended_by", ["patience", "Ctrl-C"])
def test_an_mlflow_that_hangs_is_left(toy: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str) -> None:
    """A signal comes when the record is being closed, after the last stage."""
    monkeypatch.setattr(profiles, "check", lambda *_: None)
    cancel, said = threading.Event(), list[str]()
    mlflow = Hanging(cancel.set if ended_by == "Ctrl-C" else lambda: None)
    monkeypatch.setattr(closing, "tracking", mlflow)
    if ended_by == "patience":
        monkeypatch.setattr(closing, "PATIENCE", 0.0)
    this = Run(
        *(Wish(), profiles.resolve(toy), Report("r1"), Place(toy, toy, "r1"), load_graph(toy), cancel),
        taken=Snapshot("", "", ()),
    )
    closing.judge(this, {name: StageResult(name, "ran") for name in this.graph.stages}, said.append)
    mlflow.released.set()
    assert not mlflow.waited_for
    assert (this.report.exit_code, len(said)) == (0, 1)
    assert "run r1" in said[0] and "`preflow status`" in said[0]
