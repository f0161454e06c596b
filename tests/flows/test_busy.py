"""That something goes on is said where it takes more than a moment."""

import io
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from rich.console import Console

from flows.busy import EVERY, MOMENT, busy, counting


class Alarm:
    """A timer that goes off when a test says so."""

    made: ClassVar["list[Alarm]"] = []

    def __init__(self, after: float, call: Callable[..., None], words: list[str]) -> None:
        self.after, self.call, self.words, self.on = after, call, words, False
        self.made.append(self)

    def start(self) -> None:
        self.on = True

    def cancel(self) -> None:
        self.on = False


def test_a_log_is_told_only_of_what_takes_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Alarm, "made", [])
    monkeypatch.setattr(threading, "Timer", Alarm)
    log: Any = Console(file=io.StringIO())
    with busy("getting ready", log):
        (alarm,) = Alarm.made
        assert (alarm.on, alarm.after) == (True, MOMENT)
        alarm.call(*alarm.words)
    assert not alarm.on  # what is over is not told of any more
    assert capsys.readouterr().err == "getting ready ...\n"


def test_a_terminal_shows_it_at_once_and_clears_it_away() -> None:
    out = io.StringIO()
    with busy("getting ready", Console(file=out, force_terminal=True, width=80)):
        pass
    assert "getting ready" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is erased


def test_a_log_is_told_how_far_it_has_come_and_not_at_each_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(Alarm, "made", [])
    monkeypatch.setattr(threading, "Timer", Alarm)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log: Any = Console(file=io.StringIO())
    with counting("hashing", log) as told:
        assert Alarm.made[0].after == MOMENT
        for now in (1.0, EVERY, EVERY + 1, 2 * EVERY):
            told(int(now), 2000)
    assert capsys.readouterr().err == "hashing: 10 files, 2.0 kB ...\nhashing: 20 files, 2.0 kB ...\n"


def test_a_terminal_shows_how_far_it_has_come() -> None:
    out = io.StringIO()
    with counting("hashing", Console(file=out, force_terminal=True, width=80)) as told:
        told(7, 3000)
    assert "hashing: 7 files, 3.0 kB" in out.getvalue()
