"""What becomes of a run when not a stage but what runs them goes wrong."""

import threading
from pathlib import Path
from typing import Any

import pytest

from flows import pipeline
from flows.pipeline import execute
from flows.retrain import data
from flows.runner import Place
from flows.work import Work
from rlhf.errors import Preempted
from tasks.graph import load_graph
from tasks.outcome import StageResult
from tests.flows.toy import REPO


def with_prefect_dying_after(done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(work: Work, results: dict[str, StageResult]) -> Any:
        def flow(**_: object) -> None:
            results.update({name: StageResult(name, "ran") for name in done})
            raise ConnectionError("all attempts failed")

        return flow

    monkeypatch.setattr(pipeline, "pipeline", dying)


def test_what_is_done_survives_the_death_of_prefect(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, said = load_graph(toy), list[str]()
    work = Work(Place(toy, toy, "r"), graph, todo=set(graph.stages), on_trouble=said.append)
    with_prefect_dying_after(list(graph.stages), monkeypatch)
    assert {result.state for result in execute(work).values()} == {"ran"}
    assert said == ["Prefect: ConnectionError: all attempts failed; its page of this run may be incomplete"]
    with_prefect_dying_after(["collect", "sft", "dpo"], monkeypatch)
    results = execute(work)
    assert [(result.state, result.exit_code) for result in results.values()][3:] == [("failed", 87), ("skipped", 0)]
    assert "ConnectionError: all attempts failed" in results["rl"].reason


def test_nothing_is_brought_into_an_inbox_while_a_stage_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC notes what lies there after the stage: what came too late would count as read, and never be."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    graph, said, cancel = load_graph(REPO), list[str](), threading.Event()
    cancel.set()

    def bring() -> list[str]:
        return data.bring(tmp_path, [], said.append, cancel)

    work = Work(Place(tmp_path, tmp_path, "r"), graph, todo={"collect"})
    with pipeline._alone_with_its_inbox(work, "collect", said.append), pytest.raises(Preempted, match="stage collect"):
        bring()
    elsewhere = Work(Place(tmp_path, tmp_path / "worktree", "r"), graph, todo={"collect"})
    for other, name in ((work, "sft"), (elsewhere, "collect")):
        with pipeline._alone_with_its_inbox(other, name, said.append):
            assert bring() == []


@pytest.mark.e2e
def test_a_mistake_of_ours_fails_its_stage_and_says_which(toy: Path, api: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def before(name: str) -> None:
        if name == "sft":
            raise KeyError("no such thing")

    graph = load_graph(toy)
    work = Work(Place(toy, toy, "r"), graph, todo={"sft"}, before=before, cancel=threading.Event())
    with temporary_settings({PREFECT_API_URL: api}):
        results = execute(work)
    assert (results["sft"].state, results["sft"].exit_code) == ("failed", 1)
    assert results["sft"].reason == "KeyError: 'no such thing'"
    assert results["dpo"].reason == "needs sft"
