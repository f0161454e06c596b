"""Work shared with processes beside this one: what they do counts, what they fail at is left, and none outlives it."""

import os
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from rlhf.spending import ACCOUNT
from tasks import beside

SELF = os.getpid


def test_both_processes_work_at_once_and_all_that_they_spent_counts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def say() -> None:
        (tmp_path / "pipe").write_text(f"{SELF()}")
        ACCOUNT.add(flops=1.0)

    def hear() -> None:
        (tmp_path / "heard").write_text(f"{(tmp_path / 'pipe').read_text()} {SELF()}")
        ACCOUNT.add(flops=2.0)

    before = ACCOUNT.counts["flops"]
    beside.share([say, hear])  # one of them alone would wait for the other for ever
    assert len({*(tmp_path / "heard").read_text().split(), f"{SELF()}"}) == 2
    assert (ACCOUNT.counts["flops"], ACCOUNT.processes) == (before + 3.0, 2)


def test_each_piece_is_done_once(tmp_path: Path) -> None:
    def note(number: int) -> None:
        with (tmp_path / f"{number}").open("a") as file:
            file.write("x")

    beside.share([partial(note, number) for number in range(40)])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{number}": "x" for number in range(40)}


def test_a_process_that_fails_or_is_killed_leaves_its_piece_undone_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    this = SELF()

    def fail(number: int) -> None:
        if SELF() == this:
            (tmp_path / f"{number}").touch()
        elif number % 2:
            raise ValueError("broken")
        else:
            os.kill(SELF(), signal.SIGKILL)

    beside.share([partial(fail, number) for number in range(8)])
    assert len(list(tmp_path.iterdir())) >= 7
    assert capfd.readouterr() == ("", "")


def test_an_error_in_this_process_ends_the_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    this = SELF()

    def work() -> None:
        if SELF() == this:
            raise ValueError("broken")
        (tmp_path / "pipe").read_text()  # for ever: nobody writes

    before = psutil.Process().children()
    with pytest.raises(ValueError, match="broken"):
        beside.share([work, work])
    assert psutil.Process().children() == before


def test_a_second_process_helps_with_a_small_model_of_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.platform", "linux")
    weights = tmp_path / "weights"
    weights.write_bytes(b"")
    assert beside.helps(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not beside.helps(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    os.truncate(weights, beside.SMALL + 1)
    assert not beside.helps(tmp_path)
