"""Data that is edited after it was validated is trained on by nobody."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import dvc, inputs
from flows.request import Report
from rlhf.errors import DataRefused
from tasks.graph import load_graph
from tasks.lockfile import read_lock
from tasks.outcome import StageResult
from tests.flows.toy import dvc_repro, states

pytestmark = pytest.mark.e2e
Runs = Callable[..., Report]


@pytest.mark.faults(
    47, injected="validated data edited after the run", happens="the next run restores what was validated"
)
def test_data_edited_between_two_runs_is_restored(toy: Path, run: Runs) -> None:
    run(toy)
    kept, lock = (toy / "data/sft/text").read_bytes(), (toy / "dvc.lock").read_bytes()
    (toy / "data/collect/text").write_text("a row that nobody has looked at\n")
    again = run(toy)
    assert (again.exit_code, set(states(again).values())) == (0, {"cached"})
    assert "nobody" not in (toy / "data/collect/text").read_text()
    assert ((toy / "data/sft/text").read_bytes(), (toy / "dvc.lock").read_bytes()) == (kept, lock)


@pytest.mark.faults(
    47,
    injected="data edited between two stages of a run",
    happens="the run ends with 3, naming it; the next one is clean",
)
def test_data_edited_during_a_run_ends_it_and_the_next_one_is_clean(toy: Path, run: Runs) -> None:
    def edit(result: StageResult, tree: Path) -> None:
        if result.name == "collect":
            (tree / "data/collect/text").write_text("a row that nobody has looked at\n")

    report = run(toy, on_result=edit)
    assert report.exit_code == 3
    assert states(report) == {"collect": "ran", "sft": "failed", "dpo": "skipped", "rl": "skipped", "gate": "skipped"}
    reason = report.stages[1]["reason"]
    assert reason.startswith("data/collect was changed after stage collect wrote it")
    again = run(toy)
    assert (again.exit_code, states(again)["sft"]) == (0, "ran")
    assert "nobody" not in (toy / "data/gate/text").read_text()
    assert dvc.status(toy) == {}


def test_an_edit_is_seen_while_another_dvc_writes_the_lock(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes in place, so that who reads meanwhile may find any beginning of the file."""
    dvc_repro(toy)
    path, graph = toy / "dvc.lock", load_graph(toy)
    made, entry = read_lock(path)["collect"]["outs"][0]["md5"], dvc.entry(toy, "sft")
    whole = path.read_text().replace(entry, entry.replace(made, "0" * 32 + ".dir"))
    lines = whole.splitlines(keepends=True)
    monkeypatch.setattr(inputs.time, "sleep", lambda _: path.write_text(whole))
    for written in range(len(lines) + 1):
        path.write_text("".join(lines[:written]))
        with pytest.raises(DataRefused, match="data/collect was changed"):
            inputs.hold(toy, graph, "sft")


def test_of_a_lock_that_is_being_written_an_entry_is_whole_or_none(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dvc_repro(toy)
    path, graph = toy / "dvc.lock", load_graph(toy)
    text, whole = path.read_text(), read_lock(path)["sft"]
    monkeypatch.setattr(inputs.time, "sleep", lambda _: None)
    found = []
    for written in range(len(text.splitlines()) + 1):
        path.write_text("".join(text.splitlines(keepends=True)[:written]))
        found.append(inputs.entries(toy, graph, ["sft"], looks=1))
    assert found[0] is None and found[-1] == {"sft": whole}
    assert all(one in (None, {"sft": whole}) for one in found)
