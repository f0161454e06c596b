"""What a person sees of a run: in a terminal of any width, in a log that is read afterwards."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.view import View
from tasks.outcome import StageResult

GRAPH = {"collect": (), "sft": ("collect",), "dpo": ("sft",), "rl": ("sft",), "gate": ("dpo", "rl")}


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def journal(folder: Path, name: str, *events: Mapping[str, Any]) -> None:
    """Append to an attempt's journal, as a stage does."""
    path = folder / name / "events.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def steps(time: float, done: int, total: int = 50) -> dict[str, Any]:
    return {"event": "progress", "time": time, "done": done, "total": total, "figures": {"loss": 0.5}}


def measured(**values: float) -> dict[str, Any]:
    return {"event": "metrics", "time": 1.0, "step": 1, "metrics": {f"rl/{name}": x for name, x in values.items()}}


def log(folder: Path, clock: Clock, **wanted: Any) -> tuple[View, io.StringIO]:
    out = io.StringIO()
    return View(GRAPH, folder, console=Console(file=out), clock=clock, **wanted), out


def screen(folder: Path, clock: Clock, width: int, height: int = 24, **wanted: Any) -> View:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=height, color_system=None)
    return View(GRAPH, folder, console=console, clock=clock, **wanted)


def drawn(view: View, *, whole: bool = False) -> list[str]:
    with view.console.capture() as captured:
        view.console.print(view.table(whole=whole))
    return captured.get().splitlines()


def test_progress_is_told_seldom_and_everything_else_always(tmp_path: Path, clock: Clock) -> None:
    view, out = log(tmp_path, clock)
    view.start("rl")
    for second in (2.0, 29.9, 30.0, 32.0, 60.0):
        clock.now = 100.0 + second
        journal(tmp_path, "rl-1", steps(second, int(second)), measured(reward=0.7, kl=3.0))
        view.line("rl", f"[rl] {int(second)}/50")
        view.line("dpo", f"a warning at {second}")
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("rl")] == [
        "rl: starts",
        "rl: 30/50  1/s  0:20 left  reward 0.7  kl 3  loss 0.5",
        "rl: 60/50  1/s  reward 0.7  kl 3  loss 0.5",
    ]
    assert sum("a warning" in line for line in lines) == 5
    assert "\x1b" not in out.getvalue()


def test_a_log_says_nothing_twice_and_folds_what_is_alike(tmp_path: Path, clock: Clock) -> None:
    view, out = log(tmp_path, clock, title="run r1", todo={"dpo", "rl", "gate"})
    with view:
        for name in ("collect", "sft"):
            view.result(StageResult(name, "cached"))
        view.start("dpo")
        view.line("dpo", "Running stage 'dpo':")
        view.line("dpo", "> python -m tasks.dpo")
        view.result(StageResult("dpo", "ran", 61.0))
        view.start("rl")
        view.result(StageResult("rl", "failed", 2.4, "loss is nan at step 7", 86))
        view.result(StageResult("gate", "skipped", reason="needs rl"))
    assert out.getvalue().splitlines() == [
        "run r1: 3 of 5 stages to look at",
        "collect, sft: cached",
        "dpo: starts",
        "dpo: ran in 1:01",
        "rl: starts",
        "rl: failed in 0:02",  # the summary says why
        "gate: skipped: needs rl",
    ]


def test_colours_that_are_forced_make_no_terminal_of_a_log(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with View(GRAPH, tmp_path, clock=clock) as view:
        view.result(StageResult("sft", "cached"))
    assert capsys.readouterr().err == "sft: cached\n"


def test_a_running_stage_has_its_pace_its_end_and_its_figures(tmp_path: Path, clock: Clock) -> None:
    view = screen(tmp_path, clock, 120)
    view.start("rl")
    journal(tmp_path, "rl-1", steps(10.0, 1), measured(reward=0.7, kl=3.0, entropy=9.0), steps(30.0, 11))
    clock.now += 31.0
    (line,) = [line for line in drawn(view) if line.startswith("rl")]
    bar = "━" * 3 + "·" * 11
    assert " ".join(line.split()) == f"rl running 0:31 {bar} 11/50 2 s each 1:18 reward 0.7 kl 3 loss 0.5"
    clock.now += 8.0  # nothing new: what is left passes all the same
    assert "1:10" in "\n".join(drawn(view))


def test_steps_of_the_next_part_have_a_pace_of_their_own(tmp_path: Path, clock: Clock) -> None:
    view = screen(tmp_path, clock, 120)
    view.start("rl")
    journal(tmp_path, "rl-1", steps(0.0, 1), steps(49.0, 50), steps(100.0, 1, total=9), steps(100.5, 2, total=9))
    assert " 2/s " in "\n".join(drawn(view)) and " 2/9 " in "\n".join(drawn(view))
    journal(tmp_path, "rl-2", steps(0.0, 3))  # another attempt begins anew
    (line,) = [line for line in drawn(view) if line.startswith("rl")]
    assert "3/50" in line and "/s" not in line


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
def test_no_line_is_longer_than_the_terminal_is_wide(tmp_path: Path, clock: Clock, width: int) -> None:
    view = screen(tmp_path, clock, width, title="run 20261128-193000-ab12 polite rl.kl_coef=0.05 rl.num_updates=100")
    view.start("rl")
    journal(tmp_path, "rl-1", steps(10.0, 1), measured(reward=0.7, kl=3.0), steps(30.0, 11))
    view.result(StageResult("dpo", "failed", 3.0, "rows.jsonl:7 has\nno prompt, " * 20, 3))
    lines = drawn(view)
    assert max(map(len, lines)) <= width
    assert len(lines) == 8  # title, header, five stages, foot: nothing is wrapped
    assert sum("running" in line and "11/50" in line for line in lines) == 1
    assert any(line.startswith("dpo      failed      0:03  row") and line.endswith("…") for line in lines)


def test_a_low_terminal_shows_the_stages_that_run_and_counts_the_others(tmp_path: Path, clock: Clock) -> None:
    graph = {f"s{number}": () for number in range(20)}
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=10, color_system=None)
    view = View(graph, tmp_path, title="run", console=console, clock=clock)
    for number in range(12):
        view.result(StageResult(f"s{number}", "ran", 1.0))
    view.start("s12")
    lines = drawn(view)
    assert len(lines) <= 10
    assert lines[2] == "… 10 ran" and lines[-2] == "… 5 waiting"
    assert any(line.startswith("s12") and "running" in line for line in lines)
    assert len(drawn(view, whole=True)) == 21  # what stays on the screen has every stage


def test_what_is_left_goes_by_earlier_runs_and_by_the_pace_of_this_one(tmp_path: Path, clock: Clock) -> None:
    known = {"collect": 1.0, "sft": 20.0, "dpo": 40.0, "rl": 60.0, "gate": 5.0}
    view = screen(tmp_path, clock, 120, todo={"sft", "dpo", "rl", "gate"}, known=known)
    assert view.left() == 20 + 60 + 5  # dpo beside rl; collect is not looked at
    view.start("sft")
    clock.now += 15.0
    assert view.left() == 5 + 60 + 5
    journal(tmp_path, "sft-1", steps(0.0, 10), steps(10.0, 20))
    drawn(view)
    assert view.left() == 30 + 60 + 5  # 30 steps are left at one a second, so it is slower than it was
    view.result(StageResult("sft", "failed", 16.0, "no", 1))
    assert view.left() is None


def test_without_an_earlier_run_nobody_says_how_long_it_takes(tmp_path: Path, clock: Clock) -> None:
    view = screen(tmp_path, clock, 120, known={"sft": 20.0})
    assert view.left() is None
    assert drawn(view)[-1] == "0 of 5 stages done, 0:00"


def test_a_stage_that_waits_for_another_process_says_so(tmp_path: Path, clock: Clock) -> None:
    view = screen(tmp_path, clock, 120)
    view.start("sft")
    view.line("sft", "sft: waiting: another dvc process holds its files")
    assert any("another dvc process holds" in line for line in drawn(view))
