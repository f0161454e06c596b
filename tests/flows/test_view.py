"""What a log that nobody watches gets to read."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from flows import view


def test_progress_is_told_seldom_and_everything_else_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    shown = view.View(["sft", "dpo"], tmp_path, Console(file=io.StringIO()))
    for second in (0.0, 2.0, 9.9, 10.0, 12.0):
        now[0] = 100.0 + second
        shown.line("sft", f"[sft] {second}/12")
        shown.line("dpo", f"a warning at {second}")
    shown.line("dpo", "[dpo] 1/2")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "[" in line] == ["[sft] 0.0/12", "[sft] 10.0/12", "[dpo] 1/2"]
    assert sum("a warning" in line for line in lines) == 5
