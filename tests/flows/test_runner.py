"""One stage as a child: what it comes to, and that nothing of it outlives us."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import runner
from flows.runner import OnLine, Place, last_event, run_stage
from tasks.locks import IN_USE
from tasks.outcome import StageResult
from tests.flows.toy import gone

# as a stage does before dvc looks at what it wrote
ENDS_WELL = """
import json, os
from pathlib import Path
folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"], "collect-1")
folder.mkdir()
(folder / "events.jsonl").write_text(json.dumps({"event": "end", "exit_code": 0, "reason": ""}) + "\\n")
"""


def ran(root: Path, name: str, run: str = "r", cancel: threading.Event | None = None) -> tuple[StageResult, list[str]]:
    lines: list[str] = []
    return run_stage(Place(root, root, run), name, on_line=lines.append, cancel=cancel or threading.Event()), lines


def test_a_stage_runs_once_and_is_then_cached_or_restored(toy: Path) -> None:
    first, lines = ran(toy, "collect")
    assert (first.state, first.exit_code) == ("ran", 0)
    assert "collect works" in lines
    assert (toy / ".preflow/journal/r/collect.log").read_text().count("collect works") == 1
    again, _ = ran(toy, "collect")
    assert again.state == "cached"
    (toy / "dvc.lock").unlink()
    shutil.rmtree(toy / "data/collect")
    restored, lines = ran(toy, "collect")
    assert restored.state == "cached"
    assert any("is cached - skipping run" in line for line in lines)
    assert (toy / "data/collect/text").exists()


@pytest.mark.parametrize(
    ("mode", "code", "reason"),
    [
        ("refuse", 3, "rows.jsonl:7 has no prompt"),
        pytest.param(
            "die",
            1,
            "killed by signal 9; that is also how the kernel ends what outgrows the memory: lower max_batch_tokens",
            marks=pytest.mark.faults(
                55,
                injected="a stage killed with -9, as the kernel does it",
                happens="memory is named, with what to lower",
            ),
        ),
    ],
)
def test_a_failure_has_the_code_and_the_reason_that_dvc_does_not_tell(
    toy: Path, mode: str, code: int, reason: str
) -> None:
    (toy / "params.yaml").write_text(f"seed: 0\nrl: {{kl_coef: 1}}\ncollect: {{mode: {mode}}}\n")
    result, _ = ran(toy, "collect")
    assert (result.state, result.exit_code) == ("failed", code)
    assert result.reason.startswith(reason)


def test_what_fails_before_the_journal_is_told_by_its_last_line(toy: Path) -> None:
    (toy / "stage.py").write_text("raise SystemExit('collect: environment.json is missing')")
    result, _ = ran(toy, "collect")
    assert result.reason == "environment.json is missing"


def test_a_stage_that_ended_well_and_whose_output_is_not_there_has_failed(toy: Path) -> None:
    (toy / "stage.py").write_text(ENDS_WELL)
    result, _ = ran(toy, "collect")
    assert (result.state, result.exit_code) == ("failed", 1)
    assert "data/collect" in result.reason and "does not exist" in result.reason


def test_a_torn_journal_still_tells_what_is_whole(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "end", "exit_code": 3}\n{"event": "en\xc3')
    assert last_event(tmp_path, "end") == {"event": "end", "exit_code": 3}


def test_cancelling_ends_dvc_and_the_stage(toy: Path) -> None:
    (toy / "params.yaml").write_text("seed: 0\nrl: {kl_coef: 1}\ncollect: {mode: hang}\n")
    cancel = threading.Event()
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if "collect works" in line:
            threading.Thread(target=stop_when_it_hangs).start()

    def stop_when_it_hangs() -> None:
        while not (toy / "hung").exists() or not (toy / "hung").read_text():
            pass
        cancel.set()

    result = run_stage(Place(toy, toy, "r"), "collect", on_line=on_line, cancel=cancel)
    assert (result.state, result.exit_code) == ("stopped", 85)
    assert gone(int((toy / "hung").read_text()))
    after, _ = ran(toy, "collect")  # and no lock is left behind that would stop the next one
    assert after.state == "ran"


@pytest.mark.parametrize(
    "busy",
    [
        "ERROR: Unable to acquire lock. Most likely another DVC process is running",
        "ERROR: 'data/sft' is busy, it is being blocked by",
    ],
)
def test_who_waits_says_so_once_a_minute(busy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each look of its says nothing, neither dvc's words nor a stage's of whom it found at work."""
    now, looks = [0.0], iter(range(13))

    def attempt(place: Place, name: str, on_line: OnLine, *_: object) -> tuple[int, SimpleNamespace]:
        for line in (busy, f"sft: sft-7e{IN_USE}stage sft, {now[0]:.0f} s ago", "sft: 1/9"):
            on_line(line)
        now[0] += 10
        return (0 if next(looks) == 12 else 255), SimpleNamespace(text=busy, plain="")

    monkeypatch.setattr(runner, "_attempt", attempt)
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    told: list[str] = []
    cancel = SimpleNamespace(is_set=lambda: False, wait=lambda _: False)
    result = run_stage(Place(tmp_path, tmp_path, "r"), "sft", on_line=told.append, cancel=cancel, patience=200)  # type: ignore[arg-type]
    assert result.state == "cached"
    assert [line for line in told if line != "sft: 1/9"] == ["sft: waiting: another dvc process holds its files"] * 2
    assert told.count("sft: 1/9") == 13
