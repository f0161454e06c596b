"""A dvc command whose remote hangs ends, by name or as it is told; one that is slow goes on for as long as it takes."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flows import dvc, dvc_watch
from flows.pools.exchange import Exchange
from flows.pools.orders import REFS, Order
from flows.pools.stage_work import Attempt
from rlhf.errors import DependencyDown, Preempted
from tests.flows.toy import REPO, dvc_repro
from tests.web_servers import Quiet, on_a_thread


@dataclass
class Hanging:
    """A remote that takes every question and answers none."""

    url: str = ""
    asked: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def hanging(toy: Path) -> Iterator[Hanging]:
    """The default remote of the toy, whose stages have run."""
    found = Hanging()

    class Handler(Quiet):
        def do_GET(self) -> None:
            found.asked.set()
            found.over.wait()
            self.close_connection = True

        do_HEAD = do_POST = do_PUT = do_GET

    with on_a_thread(Handler) as url:
        found.url = f"{url}/store"
        (toy / "rows").write_text("a row\n")
        dvc.call(toy, "add", "--quiet", "rows")
        dvc.call(toy, "remote", "add", "--default", "far", found.url.replace("//", "//user:secret@"))
        try:
            yield found
        finally:
            found.over.set()


def dvcs() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "dvc" in " ".join(child.cmdline()[:3])]


@pytest.mark.faults(
    38,
    injected="a DVC remote that takes every question of a push and answers none",
    happens="it says what it waits for; after 30 minutes in which nothing moved it is ended, and its remote named",
)
def test_one_that_hangs_is_ended_by_name(
    toy: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(1)

    def clock() -> float:
        """Stands still until the remote was asked; then each look comes three minutes after the one before."""
        return 180.0 * next(ticks) if hanging.asked.is_set() else 0.0

    monkeypatch.setattr(dvc_watch, "time", SimpleNamespace(monotonic=clock))
    remote = f"DVC remote far at {hanging.url}"
    with pytest.raises(DependencyDown, match=rf"^`dvc push` was ended, .* for 3\d minutes \({remote}\): .* run again"):
        dvc.call(toy, "push", "--quiet")
    said = capfd.readouterr().err
    assert f"waiting for `dvc push` ({remote}), " in said and "nothing has moved for" in said
    assert "secret" not in said
    assert dvcs() == []


def test_one_that_is_slow_is_not(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece each quarter of an hour, for hours."""
    pieces, moved, gate = 12, tmp_path / "moved", tmp_path / "gate"
    slow = tmp_path / "slow"
    slow.write_text(
        f"#!{sys.executable}\nfor line in open({str(gate)!r}):\n    open({str(moved)!r}, 'a').write(line)\n"
    )
    slow.chmod(0o755)
    os.mkfifo(gate)
    now = itertools.count(0.0, 1.1)
    jumps, looks = [0.0], [0]

    def clock() -> float:
        looks[0] += 1
        return next(now) + sum(jumps)

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            threading.Event().wait(0.01)

    def send() -> None:
        with gate.open("w", buffering=1) as file:
            for number in range(1, pieces + 1):
                file.write("a piece\n")
                wait_for(partial(lambda number: moved.exists() and moved.read_text().count("\n") == number, number))
                wait_for(partial(lambda seen: looks[0] > seen + 1, looks[0]))
                jumps.append(dvc_watch.SILENCE / 2)

    monkeypatch.setattr(dvc, "program", lambda: slow)
    monkeypatch.setattr(dvc_watch, "time", SimpleNamespace(monotonic=clock))
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert dvc.call(toy, "push").returncode == 0
    sender.join()
    assert sum(jumps) > 2 * dvc_watch.SILENCE


def test_it_ends_when_its_run_is_stopped(toy: Path, hanging: Hanging) -> None:
    with dvc_watch.heeding(hanging.asked):
        with pytest.raises(Preempted, match="stopped while `dvc push` was at work"):
            dvc.call(toy, "push", "--quiet")
        assert dvcs() == []
        assert dvc.cache(toy).is_dir()  # what closes the books of a run that was stopped is not stopped


def test_a_worker_that_is_wanted_elsewhere_while_bytes_come_is_lost_and_has_not_failed(
    toy: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the stage is sent again."""
    dvc_repro(toy)
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(toy / folder)
    order = Order(run="r", stage="sft", ref=f"{REFS}/r/sft", commit="0", mail="mail/r", flow_run="")
    attempt = Attempt(toy, order, Exchange("memory://exchange"), "one", hanging.asked)
    monkeypatch.setattr(attempt, "_checkout", lambda: nullcontext(toy))
    answer = attempt.do()
    assert (answer.result.state, answer.result.exit_code, answer.entry) == ("stopped", Preempted.exit_code, "")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_who_called_it(toy: Path, hanging: Hanging, sign: signal.Signals) -> None:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # what runs tests may ignore it
    words = f"{heard}; from flows import dvc; from pathlib import Path; dvc.call(Path.cwd(), 'push', '--quiet')"
    environ = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen([sys.executable, "-c", words], cwd=toy, env=environ, stderr=subprocess.DEVNULL) as caller:
        hanging.asked.wait()
        (pushing,) = psutil.Process(caller.pid).children()
        caller.send_signal(sign)
        psutil.wait_procs([pushing], timeout=60)
        assert not pushing.is_running()
