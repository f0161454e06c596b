"""Python from a model, run where it can do no harm: a process of its own that can neither write, call out nor multiply.

The child (`rlhf/sandbox_child.py`) gives up, before it looks at the program: all calls of the kernel but those that a
process needs for itself (seccomp: no network, no other process), all files but its own empty folder and the standard
library to read (Landlock), and more processor time, memory, file size and open files than `Limits` (rlimits). It gets
no environment and no input. It is killed at the time limit, when its folder is full, and with us where we die first.
Linux on x86-64 or arm64; elsewhere code is refused, not run.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf.errors import PreflowError

_READY = "ready "  # the child's first word, once it is shut in and before it looks at the program
_RESULT_BYTES = 4096
_LOOK = 0.05
"""Seconds between two looks at a program."""
_PATIENCE = 20
"""So many times its seconds a program gets by the clock where the machine is busy."""
_BLOCK = 4096
"""Bytes that a file counts for at least."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    seconds: int = 5
    """Of processor time; three times as much by the clock, when it waited for a processor not counted."""
    memory_bytes: int = 512 * 2**20
    """Address space."""
    file_bytes: int = 2**20
    """Of each file that it writes."""
    folder_bytes: int = 16 * 2**20
    """Of all its files; looked at twenty times a second, so that a fast program is a little beyond."""
    open_files: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program fared."""

    passed: bool | None
    """None where the machine and not the program ended it: neither right nor wrong."""
    reason: str
    """"passed", "time", "space", "ended early" (it left before the tests were through), or what it raised; "busy"
    (it hardly got a processor) and "killed" (the machine ran out of memory) are the machine's."""


def run(program: str, tests: str, limits: Limits = Limits()) -> Outcome:
    """Run `program`, then `tests` in its namespace; passed where both ran to their end.

    Raises PreflowError where this machine cannot hold a program in.
    """
    from rlhf import sandbox_child  # where it is; nothing of it is run here

    token = secrets.token_hex(16)  # whoever leaves early, with whatever exit code, has not said it
    order = {"program": program, "tests": tests, "token": token, "limits": asdict(limits), "parent": os.getpid()}
    with tempfile.TemporaryDirectory(prefix="preflow-") as folder, tempfile.TemporaryFile() as given:
        given.write(json.dumps(order).encode())
        given.seek(0)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", sandbox_child.__file__, folder],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                stopped = _watch(process, Path(folder), limits)
            finally:
                process.kill()  # it has no children: it cannot make any
                process.wait()
            # What a pipe holds cannot be taken back, and who writes more than it holds waits for ever.
            said = os.read(process.stdout.fileno(), _RESULT_BYTES).decode(errors="replace")
    if said.startswith(_READY):
        return stopped or _outcome(said.removeprefix(_READY), token)
    if stopped and process.returncode == -signal.SIGKILL:  # the program had not begun, so it was not at fault
        return Outcome(None, "busy" if stopped.passed is False else stopped.reason)
    raise PreflowError(
        f"{said.strip() or f'no sandbox: it ended with status {process.returncode}'}; running a model's code needs "
        "Linux 5.13 or newer on x86-64 or arm64 with Landlock and seccomp: use another verifier here"
    )


_FROM_OUTSIDE = [-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]


def _watch(process: "subprocess.Popen[bytes]", folder: Path, limits: Limits) -> Outcome | None:
    """Wait for its end; how it was, where the program did not come to an end by itself."""
    start, ran = time.monotonic(), 0.0
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
            break
        ran, waited = _processor(process.pid)
        clock = time.monotonic() - start
        if _size(folder) > limits.folder_bytes:
            return Outcome(False, "space")
        if clock - waited > 3 * limits.seconds:
            return Outcome(False, "time")
        if clock > _PATIENCE * limits.seconds:
            return Outcome(None, "busy")
    if process.returncode == -signal.SIGXCPU or (process.returncode == -signal.SIGKILL and ran >= limits.seconds):
        return Outcome(False, "time")
    return Outcome(None, "killed") if process.returncode in _FROM_OUTSIDE else None


def _processor(process: int) -> tuple[float, float]:
    """Seconds that a process had a processor and that it waited for one; 0 where the kernel does not count them."""
    try:
        ran, waited, _ = Path(f"/proc/{process}/schedstat").read_text("ascii").split()
    except FileNotFoundError:
        return 0.0, 0.0
    return int(ran) / 1e9, int(waited) / 1e9


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take, which come and go meanwhile."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += max(_BLOCK, entry.stat(follow_symlinks=False).st_blocks * 512)
    return total


def _outcome(verdict: str, token: str) -> Outcome:
    if verdict == token:
        return Outcome(True, "passed")
    return Outcome(False, verdict.removeprefix("raised ") if verdict.startswith("raised ") else "ended early")
