"""A lease on a git remote: one at a time, taken over from who is dead or frozen, and nothing published without it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import launch, lease
from flows.lease import GIVEN_UP, Answered, Record, Times, held
from flows.request import Report, Wish
from flows.retrain import retrain
from flows.workspace import git
from rlhf.errors import Busy, PreflowError
from tasks import owners
from tests.flows import small
from tests.flows.toy import REPO
from tests.pools.hosts import until

KEY, REF = "policy/nightly", f"{lease.REFS}/policy/nightly"
LIVELY = Times(beat=0.02, window=60.0)
"""Of a holder that renews all the time, and a looker who will see it long before the window is over."""
SHORT = Times(beat=0.2, window=1.0)

CHILD = f"""
import sys, threading
from pathlib import Path
from flows.lease import Times, held
from rlhf.errors import PreflowError

cancel = threading.Event()
with held(Path(sys.argv[1]), {KEY!r}, "first", cancel, print, Times(beat=0.1, window=60.0)) as mine:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        mine.publish([], ["HEAD:refs/heads/from-the-first"])
        print("published", flush=True)
    except PreflowError as error:
        print(error, flush=True)
"""


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one bare repository."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "remote.git")
    first = tmp_path / "first"
    git(tmp_path, "clone", "-q", "remote.git", "first")
    for name, value in (("user.name", "a"), ("user.email", "a@example.org")):
        git(first, "config", name, value)
    (first / "file").write_text("text")
    git(first, "add", "-A")
    git(first, "commit", "-qm", "start")
    git(first, "push", "-q", "origin", "HEAD:refs/heads/main")
    git(tmp_path, "clone", "-q", "remote.git", "second")
    return first, tmp_path / "second"


@contextmanager
def taken(root: Path, digest: str = "d", times: Times = LIVELY, said: list[str] | None = None) -> Iterator[lease.Lease]:
    with held(root, KEY, digest, threading.Event(), (said if said is not None else []).append, times) as mine:
        assert mine is not None
        yield mine


def on_remote(root: Path, ref: str) -> str:
    return git(root, "ls-remote", "origin", ref).partition("\t")[0]


def put(root: Path, record: Record) -> None:
    """The ref as another process would have left it."""
    value = git(root, "hash-object", "-w", "--stdin", data=json.dumps(asdict(record)).encode()).strip()
    git(root, "push", "-q", "--force", "origin", f"{value}:{REF}")


def test_of_two_one_is_at_it_and_the_other_is_told(clones: tuple[Path, Path]) -> None:
    first, second = clones
    with taken(first), pytest.raises(Busy, match=f"process {os.getpid()} on .* is at it"), taken(second):
        pass


def test_it_is_free_when_the_first_is_done_but_not_for_the_same_again(clones: tuple[Path, Path]) -> None:
    first, second = clones
    with taken(first, "data of monday") as mine:
        mine.end("data of monday", "promoted policy v3")
    with pytest.raises(Answered, match="has answered for it: promoted policy v3"), taken(second, "data of monday"):
        pass
    with taken(second, "data of tuesday"):
        pass
    with taken(first, "data of tuesday"):  # the second has given up
        pass


def test_a_holder_of_this_machine_that_is_gone_holds_nothing(clones: tuple[Path, Path]) -> None:
    first, second = clones
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put(first, Record("here", child.pid, 1.0, owners.machine()))
    with taken(second, times=Times(beat=0.02, window=3600.0)):
        pass


def test_a_holder_elsewhere_that_renews_nothing_is_taken_over_after_the_window(clones: tuple[Path, Path]) -> None:
    first, second = clones
    put(first, Record("elsewhere", 1, 1.0))
    said: list[str] = []
    with taken(second, times=SHORT, said=said):
        pass
    assert said == [
        "process 1 on elsewhere holds the lease; looking for up to 1 s if it is alive",
        "taken over from process 1 on elsewhere, which did not renew it",
    ]


def test_one_of_many_that_reach_for_it_at_once(clones: tuple[Path, Path]) -> None:
    """Who gets it has it until all others have been refused."""
    first, second = clones
    put(first, Record("elsewhere", 1, 1.0, done=GIVEN_UP))
    ready, over = threading.Barrier(4), threading.Semaphore(0)
    won, refused = list[int](), list[int]()

    def reach(root: Path, number: int) -> None:
        ready.wait()
        try:
            with taken(root, f"d{number}"):
                won.append(number)
                for _ in range(3):
                    assert over.acquire(timeout=120)
        except Busy:
            refused.append(number)
            over.release()

    threads = [threading.Thread(target=reach, args=(root, n)) for n, root in enumerate((first, second, first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 3)


def test_an_answer_that_was_lost_on_the_way_costs_nothing(
    clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = clones
    with taken(first, times=Times(beat=3600.0, window=60.0)) as mine:
        monkeypatch.setattr(lease, "git", _then_cut(lease.git))
        mine.renew()
        mine.refuse_lost()


def _then_cut(git: Any) -> Any:
    """git, whose pushes arrive, and whose answer to them does not."""

    def cut(root: Path, *arguments: str, **how: Any) -> str:
        found: str = git(root, *arguments, **how)
        if arguments[0] == "push":
            raise PreflowError("git push failed: the remote end hung up unexpectedly")
        return found

    return cut


def test_trouble_that_passes_does_not_stop_the_holder(
    clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = clones
    cancel, tried = threading.Event(), threading.Semaphore(0)
    with held(first, KEY, "d", cancel, lambda _: None, LIVELY):

        def full(*_: Any) -> str:
            tried.release()
            raise PreflowError("git hash-object failed: no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(lease, "_blob", full)
            assert all(tried.acquire(timeout=60) for _ in range(3))
        before = on_remote(first, REF)
        while on_remote(first, REF) == before:  # renewed again, when there is room
            pass
    assert not cancel.is_set()


def test_a_remote_that_goes_away_once_a_holder_was_seen_is_no_leave_to_begin(
    clones: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = clones
    put(first, Record("elsewhere", 1, 1.0))

    def gone(line: str) -> None:
        git(second, "remote", "set-url", "origin", str(second / "nowhere"))

    with (
        pytest.raises(Busy, match=r"another clone is at it, and .* did not answer"),
        held(second, KEY, "d", threading.Event(), gone, LIVELY),
    ):
        pass


def test_what_is_published_goes_with_the_lease_or_not_at_all(clones: tuple[Path, Path]) -> None:
    first, second = clones
    with taken(first, times=Times(beat=3600.0, window=60.0)) as mine:
        mine.refuse_lost()
        mine.publish([], ["HEAD:refs/heads/one"])
        put(second, Record("elsewhere", 1, 1.0))
        with pytest.raises(PreflowError, match=r"taken over by process 1 on elsewhere.*nothing is published"):
            mine.publish([], ["HEAD:refs/heads/two"])
        with pytest.raises(PreflowError, match="taken over"):
            mine.refuse_lost()
    assert on_remote(first, "refs/heads/one") and not on_remote(first, "refs/heads/two")


def test_what_the_remote_refuses_leaves_the_lease_as_it_was(clones: tuple[Path, Path]) -> None:
    first, _ = clones
    with taken(first, times=Times(beat=3600.0, window=60.0)) as mine:
        before = on_remote(first, REF)
        git(first, "commit", "-q", "--allow-empty", "-m", "more")
        with pytest.raises(PreflowError, match="stale info"):
            mine.publish([f"--force-with-lease=refs/heads/main:{'1' * 40}"], ["HEAD:refs/heads/main"])
        assert on_remote(first, REF) == before
        mine.publish([], ["HEAD:refs/heads/one"])


def test_losing_it_stops_the_holder(clones: tuple[Path, Path]) -> None:
    first, second = clones
    cancel, said = threading.Event(), list[str]()
    with held(first, KEY, "d", cancel, said.append, LIVELY):
        put(second, Record("elsewhere", 1, 1.0))
        assert cancel.wait(60)
    assert ["taken over by process 1 on elsewhere" in line for line in said] == [True]


def test_without_a_remote_nobody_is_asked(clones: tuple[Path, Path]) -> None:
    first, _ = clones
    git(first, "remote", "set-url", "origin", str(first / "nowhere"))
    said: list[str] = []
    with held(first, KEY, "d", threading.Event(), said.append) as mine:
        assert mine is None
    assert ["goes on without asking" in line for line in said] == [True]
    git(first, "remote", "remove", "origin")
    with held(first, KEY, "d", threading.Event(), said.append) as mine:
        assert mine is None and len(said) == 1


def stop(process: subprocess.Popen[Any]) -> None:
    """Freeze it, and not in the middle of a push: the other end of that is on another machine, and does not freeze."""
    process.send_signal(signal.SIGSTOP)
    until(lambda: not any(_pushes(child) for child in psutil.Process(process.pid).children()), lambda: "it pushes on")


def _pushes(child: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return child.name() == "git" and child.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.faults(
    35,
    injected="two clones asked for one retrain; the one at it is frozen (SIGSTOP) past its lease, and thaws later",
    happens="the other takes over and publishes; the first one's push is refused whole, and it stops",
)
def test_frozen_past_its_lease_it_publishes_nothing(clones: tuple[Path, Path]) -> None:
    first, second = clones
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(first)],
        env={**os.environ, "PYTHONPATH": str(REPO)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin and child.stdout
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(Busy), taken(second):
            pass
        stop(child)
        with taken(second, "second", SHORT) as mine:
            mine.publish([], ["HEAD:refs/heads/from-the-second"])
            child.send_signal(signal.SIGCONT)
            child.stdin.write("\n")
            child.stdin.flush()
            told = child.stdout.read()
            assert "nothing is published" in told and "published\n" not in told.replace("nothing is published\n", "")
            assert child.wait() == 0
        assert on_remote(second, "refs/heads/from-the-second")
        assert not on_remote(second, "refs/heads/from-the-first")
    finally:
        child.kill()
        child.wait()


def test_of_two_clones_that_retrain_on_the_same_data_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "remote.git")
    roots = [small.make(tmp_path / name) for name in ("first", "second")]
    for root in roots:
        git(root, "remote", "add", "origin", str(tmp_path / "remote.git"))
        small.shard(root, "a", "good")
    ran: list[Wish] = []

    def run(root: Path, wish: Wish, *_: object, **__: object) -> Report:
        """While the first one is at it the second one asks, too."""
        assert wish.lease is not None
        ran.append(wish)
        if len(ran) == 1:
            assert fire(roots[1]).state == retrain.SKIPPED
        return Report("r1", promotion={"reason": "promoted policy v1", "pushed": []}, gate={"reason": "better"})

    def fire(root: Path) -> retrain.Outcome:
        return retrain.fire(root, retrain.Order(), threading.Event(), say=lambda _: None)

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setattr(lease, "USUAL", LIVELY)
    assert fire(roots[0]).state == retrain.PROMOTED
    second = fire(roots[1])
    assert second.state == retrain.NOTHING_NEW and "has answered for it: promoted policy v1" in second.message
    assert len(ran) == 1
    small.shard(roots[1], "b", "good")
    assert fire(roots[1]).state == retrain.PROMOTED and len(ran) == 2
