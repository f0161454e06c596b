"""Who may write: one at a time; who has died holds nothing; one of another machine does while it is heard of."""

import json
import math
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.guards import is_held
from rlhf.errors import Busy
from tasks import locks, owners
from tests.faults import child

OTHER_BOOT = "00000000-0000-0000-0000-000000000000 pid:[4026531836]"
BOOT = owners.machine().partition(" ")[0]
ELSEWHERE = {"host": "elsewhere", "machine": OTHER_BOOT}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.lock"


def take(path: Path, **how: Any) -> None:
    with locks.held(path, "run r2", "this workspace", **how):
        pass


def killed_with_it(path: Path) -> locks.Holder:
    """What a process leaves that is killed while it holds the lock."""

    def work() -> None:
        with locks.held(path, "run r1", "this workspace"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert child.ended(work) == -signal.SIGKILL
    left = locks.holder(path)
    assert left is not None
    return left


def written(path: Path, seconds_ago: float, **changed: Any) -> None:
    """A holder that the kernel knows nothing of, as over a network file system; its last touch so long ago."""
    path.parent.mkdir()
    path.write_text(json.dumps(owners.this_process() | {"who": "run r1", "since": 0.0} | changed))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_the_message_names_the_holder(path: Path) -> None:
    with locks.held(path, "run r1", "this workspace"):
        os.utime(path, (time.time() - 7200,) * 2)
        with pytest.raises(Busy) as refused:
            take(path)
    where = f"{os.getpid()} on {platform.node()} (boot {owners.machine()[:8]})"
    assert str(refused.value).startswith(f"this workspace is in use by run r1, process {where} since 20")
    assert re.search(r", last heard of 7\d\d\d s ago", str(refused.value))
    take(path)


def test_one_that_was_killed_holds_nothing(path: Path) -> None:
    assert killed_with_it(path).who == "run r1"
    take(path)
    assert locks.holder(path) is None


def test_the_kernel_is_not_needed_to_see_a_living_process(path: Path) -> None:
    written(path, 7200)
    with pytest.raises(Busy, match="in use by run r1, process"):
        take(path)


@pytest.mark.parametrize(
    ("owner", "seconds_ago", "free"),
    [
        pytest.param({"machine": OTHER_BOOT}, 0, True, id="before this boot", marks=pytest.mark.faults(
            33, injected="a lock of a process of this host's last boot", happens="is taken over at once",
        )),
        pytest.param(ELSEWHERE, 0, False, id="elsewhere, alive", marks=pytest.mark.faults(
            34, injected="a lock of another host, not known to the kernel here, touched lately",
            happens="refused with 75, naming process, host, boot, since when and the last touch",
        )),
        pytest.param(ELSEWHERE, 95, True, id="elsewhere, silent", marks=pytest.mark.faults(
            33, injected="a lock of another host that was not touched for 90 seconds", happens="is taken over",
        )),
        pytest.param({"machine": f"{BOOT} pid:[1]"}, 0, True, id="another container of this kernel"),
        ({"host": "renamed since", "pid": 999_999_999}, 0, True),
        ({"shared": True}, 0, True),
    ],
)  # fmt: skip
def test_whom_the_kernel_does_not_know(owner: dict[str, Any], seconds_ago: float, free: bool, path: Path) -> None:
    written(path, seconds_ago, **owner)
    assert is_held(path) is not free
    if free:
        take(path)
    else:
        with pytest.raises(Busy, match=r"in use by run r1, process .* on .* since 1970.* last heard of \d+ s ago"):
            take(path)


def until(true: Callable[[], bool]) -> None:
    while not true():
        threading.Event().wait(0.01)


def test_a_holder_touches_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with locks.held(path, "run r1", "this workspace"):
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)


def test_one_that_was_frozen_ends_where_another_has_taken_its_place(path: Path) -> None:
    def work() -> None:
        locks.BEAT = 0.01
        with locks.held(path, "run r1", "this workspace"):
            path.write_text(json.dumps(owners.this_process() | {"who": "run r2", "since": 0.0, "host": "elsewhere"}))
            threading.Event().wait()

    assert child.ended(work, path.parent.parent / "errors") == 75
    assert "taken over by run r2, process" in (path.parent.parent / "errors").read_text()


def test_one_that_waits_gets_it_also_when_the_file_is_removed(path: Path) -> None:
    """And it is then the lock of that path: who waited for the removed file alone would keep nobody out."""
    seen: list[locks.Holder | None] = []

    def wait() -> None:
        with locks.held(path, "run r2", "this workspace", wait=math.inf):
            seen.append(locks.holder(path))

    def waits() -> bool:
        return sum(os.path.samefile(fd, path) for fd in Path("/proc/self/fd").iterdir() if fd.exists()) == 2

    with locks.held(path, "run r1", "this workspace", fleeting=True):
        thread = threading.Thread(target=wait)
        thread.start()
        until(waits)
    thread.join()
    assert [holder and holder.who for holder in seen] == ["run r2"]


def test_a_fleeting_one_leaves_nothing(path: Path) -> None:
    take(path, fleeting=True)
    assert list(path.parent.iterdir()) == []
