"""One retrain of a kind, or one and the same run, at a time among all clones of a git remote: a lease, a ref there.

`refs/preflow-leases/KEY` is a small text: who holds it and how often it was renewed, or who is done with what. Git
moves it only from the value that the mover names, so of two that reach for it one gets it. Its holder renews it; who
finds it the same for longer than that takes, by a clock of its own, takes it over: no two clocks are compared. What the
holder publishes goes to the remote in one atomic push with the lease, so one that was frozen, lost it and thawed
publishes nothing.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flows.releases.refs import QUIET, last_line, remote_of
from flows.workspace import git
from rlhf.errors import Busy, DependencyDown, PreflowError
from tasks import owners
from tasks.journal import alive

REFS = "refs/preflow-leases"
GIVEN_UP = "given up"
_STALE = ("stale info", "fetch first", "non-fast-forward", "already exists", "cannot lock ref")
"""What git says of a ref that is no longer what the mover takes it for."""


@dataclass(frozen=True)
class Times:
    """In seconds."""

    beat: float = 20.0
    """Between two renewals."""
    window: float = 90.0
    """Without one, after which a lease is anybody's; several beats, as a push may take its time."""


USUAL = Times()


@dataclass(frozen=True)
class Record:
    """What the ref says."""

    host: str
    pid: int
    started: float
    """When that process was, seconds since 1970."""
    machine: str = ""
    """In which process ids are what they are: the boot of a machine, and the namespace of a container."""
    count: int = 0
    done: str = ""
    """Digest of what was answered, GIVEN_UP of what was not; "" while somebody is at it."""
    outcome: str = ""
    moved: int = 0
    """Nanoseconds since 1970, so that no value ever comes back; not compared with any clock."""

    @property
    def who(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def dead(self) -> bool:
        """Whether it was a process of this machine that is gone."""
        return bool(self.machine) and self.machine == owners.machine() and not alive(self.pid, self.started)


_FORM = Record("", 0, 0.0)


class Answered(PreflowError):
    """Another clone has answered for the same data, parameters and code."""


class Lease:
    """A lease that this process holds, until somebody takes it over."""

    def __init__(self, root: Path, remote: str, key: str, record: Record, value: str) -> None:
        self._root, self._remote, self._ref = root, remote, f"{REFS}/{key}"
        self._record, self._value = record, value
        self._moving = threading.Lock()
        self._ended = False

    def renew(self) -> None:
        """Raises PreflowError where it is lost, DependencyDown where the remote does not answer."""
        self._move()

    def publish(self, options: list[str], refs: list[str]) -> None:
        """`git push --atomic` of these refs together with the lease: all of it or nothing.

        Raises:
            PreflowError: git's own, or that the lease is lost.
        """
        self._move(options, refs)

    def end(self, digest: str, outcome: str) -> None:
        """Leave it to others, with what was done, once; one that is lost is theirs already."""
        if not self._ended:
            self._ended = True
            with suppress(PreflowError):
                self._move(done=digest, outcome=outcome)

    def drop(self) -> None:
        """Leave it to others, without a trace; one that is lost is theirs already."""
        with suppress(PreflowError), self._moving:
            _push(self._root, self._remote, self._ref, self._value, "")

    def refuse_lost(self) -> None:
        """Raises PreflowError where somebody has taken it over, or nobody can tell."""
        with self._moving:
            value, other = _look(self._root, self._remote, self._ref)
            if value != self._value:
                raise _lost(other)

    def _move(self, options: Sequence[str] = (), refs: Sequence[str] = (), **changed: str) -> None:
        with self._moving:
            record = replace(self._record, count=self._record.count + 1, **changed)  # type: ignore[arg-type]
            value = _blob(self._root, record)
            _push(self._root, self._remote, self._ref, self._value, value, options, refs)
            self._record, self._value = record, value


@contextmanager
def held(
    root: Path,
    key: str,
    digest: str,
    cancel: threading.Event,
    say: Callable[[str], None],
    times: Times | None = None,
) -> Iterator[Lease | None]:
    """Hold the lease `key` while inside, renewing it; None where there is no git remote, or it does not answer.

    Args:
        digest: of what is to be answered, so that no two clones do the same one after the other; "": that they may.
        cancel: ends the wait for a lease that may be dead; set where this one is taken over.

    Raises:
        Busy: another clone is at it, and is alive.
        Answered: another clone has done just this.
    """
    remote, key = remote_of(root), re.sub(r"[^\w=+/-]", "_", key)
    try:
        lease = _taken(root, remote, key, digest, cancel, say, times or USUAL) if remote else None
    except DependencyDown as error:
        say(f"{error}; this goes on without asking whether another clone is at it")
        lease = None
    if lease is None:
        yield None
        return
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(lease, (times or USUAL).beat, over, cancel, say), daemon=True)
    beats.start()
    try:
        yield lease
    finally:
        over.set()
        beats.join()
        if digest:
            lease.end(GIVEN_UP, "")  # where nothing else was said
        else:
            lease.drop()


def _taken(
    root: Path, remote: str, key: str, digest: str, cancel: threading.Event, say: Callable[[str], None], times: Times
) -> Lease:
    ref = f"{REFS}/{key}"
    me = Record(**owners.this_process())
    seen, since = "", time.monotonic()
    while True:
        try:
            value, record = _look(root, remote, ref)
        except DependencyDown as error:
            if not seen:
                raise
            raise Busy(f"another clone is at it, and {error}") from None
        if record and digest and record.done == digest:
            raise Answered(f"{record.who} has answered for it: {record.outcome}")
        holder = record.who if record and not (record.done or record.dead) else ""
        if holder and value != seen:
            if seen:
                raise Busy(f"{holder} is at it")
            say(f"{holder} holds the lease; looking for up to {times.window:g} s if it is alive")
            seen, since = value, time.monotonic()
        if not holder or time.monotonic() - since > times.window:
            with suppress(_Moved):
                mine = _blob(root, me)
                _push(root, remote, ref, value, mine)
                if record and not record.done:
                    say(f"taken over from {record.who}, which did not renew it")
                return Lease(root, remote, key, me, mine)
        elif cancel.wait(times.beat / 4):
            raise Busy(f"stopped while looking whether {holder} is alive")


def _beat(
    lease: Lease, every: float, over: threading.Event, cancel: threading.Event, say: Callable[[str], None]
) -> None:
    while not over.wait(every):
        try:
            lease.renew()
        except _Moved as error:
            say(f"{error}; stopping")
            cancel.set()
            return
        except PreflowError:
            continue  # the remote may answer, and this disk take it, before the window is over


class _Moved(PreflowError):
    """The ref is not what the mover took it for."""


def _push(
    root: Path,
    remote: str,
    ref: str,
    before: str,
    value: str,
    options: Sequence[str] = (),
    refs: Sequence[str] = (),
) -> None:
    """Move the lease from one value to another, "" where it is not there, with further refs in the same push."""
    lease = f"--force-with-lease={ref}:{before}"
    try:
        git(root, "push", "--quiet", "--atomic", lease, *options, remote, f"{value}:{ref}", *refs, env=QUIET)
    except PreflowError as error:
        now, other = _look(root, remote, ref)
        if now == value:  # it was taken, and only the answer was lost
            return
        if now != before:
            raise _lost(other) from None
        if refs or any(words in str(error) for words in _STALE):
            raise
        raise DependencyDown(f"the git remote {remote} did not take the lease: {last_line(error)}") from None


def _lost(other: Record | None) -> PreflowError:
    by = f"by {other.who}" if other else "and given up since"
    return _Moved(f"the lease was taken over {by}, as it was not renewed in time: nothing is published")


def _look(root: Path, remote: str, ref: str) -> tuple[str, Record | None]:
    """Value of the ref on the remote and what it says; "" and None where it is not there."""
    here = ref.replace(REFS, f"{REFS}-seen")
    try:
        value = git(root, "ls-remote", remote, ref, env=QUIET).partition("\t")[0].strip()
        if not value:
            return "", None
        git(root, "fetch", "--quiet", "--no-tags", remote, f"+{ref}:{here}", env=QUIET)
        value = git(root, "rev-parse", here).strip()
        told = json.loads(git(root, "cat-file", "blob", value))
        return value, Record(**{name: type(getattr(_FORM, name))(one) for name, one in told.items()})
    except PreflowError as error:
        if "couldn't find remote ref" in str(error):  # dropped since
            return "", None
        raise DependencyDown(f"the git remote {remote} did not answer: {last_line(error)}") from None
    except (ValueError, TypeError, AttributeError):
        return value, Record("a text that preflow did not write", 0, 0.0)


def _blob(root: Path, record: Record) -> str:
    """Name of the record in git's store."""
    text = json.dumps(asdict(replace(record, moved=time.time_ns())), sort_keys=True) + "\n"
    return git(root, "hash-object", "-w", "--stdin", data=text.encode()).strip()
