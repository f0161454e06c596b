"""A training that is asked to stop: saved after the step it is in, and gone on with; asked again, it ends at once."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import processes
from flows.runner import AGAIN, Place, run_stage
from rlhf import interruption, trainer
from rlhf.manifests import problem
from tests.faults.child import ended
from tests.faults.small_stage import events, make_root, typed_sft
from tests.flows.toy import gone, make_toy
from tests.tasks import small_rl, tiny

STOP_AT = 7
"""The update in the middle of which the signal comes."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def typed(root: Path, at_update: Callable[[int], None] = lambda number: None, out: str = "out") -> Callable[[], None]:
    """`at_update` is called before each update."""

    def prepare() -> None:
        update, count = trainer.update, [0]

        def counted(*arguments: Any) -> None:
            count[0] += 1
            (root / "updates").write_text(str(count[0]))
            at_update(count[0])
            update(*arguments)

        trainer.update = counted  # type: ignore[attr-defined]

    return typed_sft(root, prepare, out)


@pytest.mark.parametrize("asks", ["term", "int"])
@pytest.mark.faults(
    8, injected="SIGTERM or Ctrl-C in the middle of a step of SFT",
    happens="the step is ended and saved, exit code 85; typed again it does only the other steps, to the same bytes",
)  # fmt: skip
def test_asked_to_stop_it_saves_and_goes_on_later(asks: str, root: Path) -> None:
    assert ended(typed(root)) == 0
    steps, expected = int((root / "updates").read_text()), tiny.contents(root / "out")
    assert ended(typed(root, out="again"), root / "errors", f"step.update:{STOP_AT}:{asks}") == 85
    said = (root / "errors").read_text()
    assert f"step {STOP_AT} of {steps} is saved; the same command goes on from there" in said
    assert int((root / "updates").read_text()) == STOP_AT
    (end,) = [line for line in events(root, 2) if line["event"] == "end"]
    assert (end["status"], end["exit_code"]) == ("KILLED", 85)
    assert ended(typed(root, out="again")) == 0
    assert int((root / "updates").read_text()) == steps - STOP_AT
    assert tiny.contents(root / "again") == expected


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.faults(
    9, injected="a second SIGTERM or Ctrl-C, before the first has had its effect",
    happens="ends at once with exit code 85, the checkpoint before verifies and is gone on from",
)  # fmt: skip
def test_asked_twice_it_ends_at_once(sign: int, root: Path) -> None:
    params = json.loads((root / "params.yaml").read_text())
    params["sft"]["checkpoint_every"] = 3
    (root / "params.yaml").write_text(json.dumps(params))

    def twice(number: int) -> None:
        if number == STOP_AT:
            interruption.MOMENT = 0.0
            os.kill(os.getpid(), sign)
            os.kill(os.getpid(), sign)
            (root / "outlived").touch()

    assert ended(typed(root, twice), root / "errors") == 85
    assert "stopped at once" in (root / "errors").read_text() and not (root / "outlived").exists()
    (folder,) = root.glob(".preflow/scratch/sft-*/checkpoints")
    assert [problem(path) for path in sorted(folder.glob("step-*"))] == [None, None]
    assert ended(typed(root)) == 0
    assert int((root / "updates").read_text()) == 24 - 6


@pytest.mark.faults(
    9, injected="two requests in one moment, as a service that is stopped sends them",
    happens="count as one: the step is saved",
)  # fmt: skip
def test_two_requests_in_one_moment_are_one(root: Path) -> None:
    assert ended(typed(root), root / "errors", ",".join([f"step.update:{STOP_AT}:term"] * 2)) == 85
    assert f"step {STOP_AT} of 24 is saved" in (root / "errors").read_text()


def test_that_the_parent_has_gone_is_never_a_second_request(root: Path) -> None:
    """Who ends dvc and its stage together asks the stage three times: itself, by dvc's end, by the shell's."""

    def asked(number: int) -> None:
        interruption.MOMENT = 0.0
        if number == STOP_AT:
            for sign in (interruption.PARENT_GONE, signal.SIGTERM, interruption.PARENT_GONE):
                os.kill(os.getpid(), sign)

    assert ended(typed(root, asked), root / "errors") == 85
    assert f"step {STOP_AT} of 24 is saved" in (root / "errors").read_text()


def test_between_trainings_it_ends_at_once(tmp_path: Path) -> None:
    """Nothing is lost there, and nobody would look at the request for a while."""

    def work() -> None:
        interruption.STOP.heed()
        with interruption.STOP.after_the_step():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "outlived").touch()

    assert ended(work, tmp_path / "errors") == 1
    assert "Stopped: stopped (SIGTERM)" in (tmp_path / "errors").read_text() and not (tmp_path / "outlived").exists()


def test_nothing_takes_a_request_for_a_failure_and_goes_on(tmp_path: Path) -> None:
    """Libraries catch all errors of what they run; and who cleans up after one request is not hit by the next."""

    def work() -> None:
        interruption.STOP.heed()
        with contextlib.suppress(Exception):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), interruption.PARENT_GONE)
                (tmp_path / "cleaned").touch()
        (tmp_path / "outlived").touch()

    assert ended(work) == 1
    assert (tmp_path / "cleaned").exists() and not (tmp_path / "outlived").exists()


def test_a_request_that_something_swallowed_is_not_forgotten(tmp_path: Path) -> None:
    def work() -> None:
        interruption.STOP.heed()
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        interruption.STOP.refuse_to_go_on()

    assert ended(work, tmp_path / "errors") == 1
    assert "Stopped: stopped (SIGTERM)" in (tmp_path / "errors").read_text()


@pytest.mark.faults(
    8, injected="SIGTERM between the inner steps of an RL update",
    happens="saved after the last of them; gone on with, it ends in the same bytes",
)  # fmt: skip
def test_rl_stops_where_its_rollouts_are_used_up(tmp_path: Path) -> None:
    inputs = small_rl.save_inputs(tmp_path)
    block = small_rl.BLOCKS["rloo"].model_copy(update={"inner_steps": 3})
    settings: dict[str, Any] = {"num_updates": 4, "val_every": 2, "checkpoint_every": 100}

    def work() -> None:
        interruption.STOP.heed()
        small_rl.run(inputs, tmp_path / "stopped", "rloo", block, **settings)

    assert ended(work, tmp_path / "errors", "step.update:5:term") == 1
    assert "step 6 of 12 is saved" in (tmp_path / "errors").read_text()
    (tmp_path / "stopped/out").rmdir()
    small_rl.run(inputs, tmp_path / "stopped", "rloo", block, **settings)
    small_rl.run(inputs, tmp_path / "straight", "rloo", block, **settings)
    assert tiny.contents(tmp_path / "stopped/out") == tiny.contents(tmp_path / "straight/out")


PREEMPTED = """
import os, signal, sys
from pathlib import Path
tries = Path("tries")
tries.write_text((tries.read_text() if tries.exists() else "") + "x")
if len(tries.read_text()) <= TIMES:
    HOW
Path("data/collect").mkdir(parents=True, exist_ok=True)
Path("data/collect/text").write_text("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "times"), [("os.kill(os.getpid(), signal.SIGTERM)", 1), ("sys.exit(85)", 1), ("sys.exit(85)", AGAIN + 1)]
)
@pytest.mark.faults(
    8, injected="SIGTERM to a stage of a run, the run itself goes on", happens="the stage is begun again, three times",
)  # fmt: skip
def test_a_stage_that_was_asked_to_stop_is_begun_again_by_the_run(how: str, times: int, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "project")
    (toy / "stage.py").write_text(PREEMPTED.replace("TIMES", str(times)).replace("HOW", how))
    lines: list[str] = []
    result = run_stage(Place(toy, toy, "r"), "collect", on_line=lines.append, cancel=threading.Event())
    assert len((toy / "tries").read_text()) == min(times, AGAIN) + 1
    assert result.state == ("ran" if times <= AGAIN else "failed")
    assert sum("begun again" in line for line in lines) == min(times, AGAIN)


SAVES = """
import os, signal
from pathlib import Path

def save(*_):
    Path("asked").touch()
    Path("gate").read_text()
    Path("saved").touch()
    raise SystemExit(85)

signal.signal(signal.SIGTERM, save)
Path("pid").write_text(str(os.getpid()))
print("at work", flush=True)
while True:
    signal.pause()
"""


class Clock:
    """The time of `flows.processes`: it stands still until the stage saves; then each look at it takes a second."""

    def __init__(self, root: Path, opens_at: float) -> None:
        """When `opens_at` has come the stage has saved, and time stands still again."""
        self._root, self._opens_at, self._now = root, opens_at, 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        if self._now >= self._opens_at:
            with (self._root / "gate").open("w"):
                self._opens_at = float("inf")
            self._now = float("-inf")
        elif (self._root / "asked").exists():
            self._now += 1.0
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    ("needs", "saves"),
    [
        pytest.param(processes.SAVING - 2, True, id="long", marks=pytest.mark.faults(
            8, injected="Ctrl-C of a run whose stage takes 28 of 30 seconds to save", happens="it is waited for",
        )),
        pytest.param(float("inf"), False, id="for ever", marks=pytest.mark.faults(
            8, injected="Ctrl-C of a run whose stage never ends saving", happens="it is killed after 30 seconds",
            lost="the steps since its last checkpoint",
        )),
    ],
)  # fmt: skip
def test_a_stage_that_saves_is_waited_for_a_while(
    needs: float, saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy(tmp_path / "project")
    (toy / "stage.py").write_text(SAVES)
    os.mkfifo(toy / "gate")
    clock, cancel = Clock(toy, needs), threading.Event()
    monkeypatch.setattr(processes, "time", clock)

    def on_line(line: str) -> None:
        if line == "at work":
            cancel.set()

    result = run_stage(Place(toy, toy, "r"), "collect", on_line=on_line, cancel=cancel)
    assert (result.state, result.exit_code) == ("stopped", 85)
    while not gone(int((toy / "pid").read_text())):  # killed, it takes the kernel a moment
        threading.Event().wait(0.01)
    assert (toy / "saved").exists() == saves
    assert saves or clock.monotonic() >= processes.SAVING
