"""Processes that end when they should: with their parent, as a whole group, and never somebody else's."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from rlhf.interruption import SAVING as SAVING

# Runs between fork and exec of the program proper, in a child of its own: a hook in this process would be unsafe beside
# its other threads. -I and -S keep the detour at some 15 ms.
_LEASH = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str],
    output: IO[Any] | int,
    errors: IO[Any] | int = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own that dies with the *thread* that calls this; nothing on its stdin.

    `argv[0]` must be a path. Both its output streams go to `output`, unless `errors` is given.
    """
    leash = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())]
    return subprocess.Popen(
        [*leash, *map(str, argv)],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        process_group=0,
    )


def end_group(process: subprocess.Popen[bytes], patience: float = 3.0) -> None:
    """End a program of `spawn` and everything that it started: asked first, then made to after `patience` seconds.

    Asking lets a trainer save what it has.
    """
    for sign, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            process.poll()
            if not _members(process.pid):
                break
            time.sleep(0.05)
    process.wait()


def activity(pid: int) -> tuple[int, int]:
    """Bytes that a process has read and written so far, and tenths of seconds in which it has computed.

    What goes through a socket is no byte here, and costs time of the processor. Without counters of bytes, elsewhere
    than on Linux, the time alone tells.
    """
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        counted = process.io_counters() if hasattr(process, "io_counters") else None
    except psutil.Error:
        return 0, 0
    return (counted.read_chars + counted.write_chars if counted else 0), int(10 * (times.user + times.system))


def _members(group: int) -> list[int]:
    """Processes of a group that still live; a zombie does not."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found
