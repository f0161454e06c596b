"""One writer at a time: a lock on a file that the kernel drops with its holder, and in the file who that is.

Over a network file system the kernel's lock may not hold. So the holder touches the file now and then, and one of
another machine counts as alive as long as it does.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from rlhf.errors import Busy
from tasks import owners

BEAT = 20.0
"""Seconds between two touches."""
WINDOW = 90.0
"""Without one, after which what a process of another machine held is anybody's: several beats, as it may be slow."""
IN_USE = " is in use by "
"""What `Busy` says of a lock, between what it is for and who holds it."""
_LOOK = 0.1  # seconds between two looks at what another holds


@dataclass(frozen=True)
class Holder:
    """What the file of a lock says."""

    who: str
    since: float
    host: str
    machine: str
    pid: int
    started: float
    shared: bool = False

    @property
    def name(self) -> str:
        """ "run r1, process 7 on host"."""
        return f"{self.who}, process {self.pid} on {self.host}"


def holder(path: Path) -> Holder | None:
    """Who holds a lock or was killed while holding it; None where the file says nothing."""
    with suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    return None


@contextmanager
def held(
    path: Path, who: str, what: str, *, wait: float = 0.0, shared: bool = False, fleeting: bool = False
) -> Iterator[None]:
    """Hold the lock on `path` while inside.

    Args:
        who: holds it.
        what: is locked by it.
        wait: seconds for the one that has it; `math.inf` for as long as it takes.
        shared: with others that have it so, and with nobody else; here the kernel's lock alone counts.
        fleeting: have no file left behind.

    Raises:
        Busy: another has it still; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = Holder(who, time.time(), **owners.this_process(), shared=shared)
    with _locked(path, what, wait, shared) as file:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(asdict(mine)))
        file.flush()
        over = threading.Event()
        if not shared:
            threading.Thread(target=_beat, args=(path, file.fileno(), mine, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            if fleeting:
                path.unlink(missing_ok=True)
            elif not shared:
                file.truncate(0)


@contextmanager
def _locked(path: Path, what: str, wait: float, shared: bool) -> Iterator[TextIO]:
    until = time.monotonic() + wait
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if _is_ours(file, shared):
                if not _is_at(file, path):  # its last holder has removed it meanwhile
                    continue
                if shared or not lives(path):
                    yield file
                    return
        if time.monotonic() >= until:
            raise Busy(_told(path, what))
        time.sleep(_LOOK)


def _is_ours(file: TextIO, shared: bool) -> bool:
    """Whether the kernel gives us the lock."""
    with suppress(BlockingIOError):
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


def _is_at(file: TextIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def lives(path: Path) -> bool:
    """Whether the holder that the file names is there, although the kernel gave us the lock."""
    other = holder(path)
    if other is None or other.shared:
        return False
    alive = owners.is_alive(asdict(other))
    if alive is None:  # of another container here the kernel knows, whose locks are for all of them
        return not owners.same_kernel(other.machine) and owners.silence([path]) < WINDOW
    return alive


def _told(path: Path, what: str) -> str:
    other = holder(path)
    if other is None:
        return f"{what}{IN_USE}another process; wait for it, or end it with Ctrl-C there"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.since))
    boot = f" (boot {other.machine[:8]})" if other.machine else ""
    heard = "" if other.shared else f", last heard of {max(0.0, owners.silence([path])):.0f} s ago"
    return f"{what}{IN_USE}{other.name}{boot} since {since}{heard}; wait for it, or end it with Ctrl-C there"


def _beat(path: Path, file: int, mine: Holder, over: threading.Event) -> None:
    """Touch the file; end this process where it stood still for so long that another has taken its place."""
    while not over.wait(BEAT):
        if (other := holder(path)) not in (None, mine):
            os.write(2, f"{path.name} was taken over by {other.name}, as nothing was heard of this process\n".encode())
            os._exit(Busy.exit_code)
        with suppress(OSError):
            os.utime(file)
