"""Python from a model, run where it can do no harm: a process of its own that can neither write, call out nor multiply.

The child (`rlhf/sandbox_child.py`) gives up, before it looks at the program: the network and every other process
(seccomp), all files but its own empty folder and the standard library to read (Landlock), and more processor time,
memory, file size and open files than `Limits` (rlimits). It gets no environment and no input. It is killed with its
group at the time limit, and with us where we die first. Linux on x86-64 or arm64; elsewhere code is refused, not run.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass

from rlhf.errors import PreflowError

_NO_SANDBOX = 3  # the child's exit code where the kernel lacks what it takes
_RESULT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    seconds: int = 5
    """Of processor time; three times as much by the clock, so that a busy machine fails nobody."""
    memory_bytes: int = 512 * 2**20
    """Address space."""
    file_bytes: int = 2**20
    """Of each file that it writes."""
    open_files: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program fared."""

    passed: bool
    reason: str
    """"passed", "time", "ended early" (it left before the tests were through, or was killed), or what it raised."""


def run(program: str, tests: str, limits: Limits = Limits()) -> Outcome:
    """Run `program`, then `tests` in its namespace; passed where both ran to their end.

    Raises PreflowError where this machine cannot hold a program in.
    """
    from rlhf import sandbox_child  # where it is; nothing of it is run here

    token = secrets.token_hex(16)  # whoever leaves early, with whatever exit code, has not said it
    order = {"program": program, "tests": tests, "token": token, "limits": asdict(limits)}
    with tempfile.TemporaryDirectory(prefix="preflow-") as folder, tempfile.TemporaryFile() as result:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", sandbox_child.__file__, folder],
            stdin=subprocess.PIPE,
            stdout=result,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(order).encode(), timeout=3 * limits.seconds)
            late = process.returncode == -signal.SIGXCPU
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        result.seek(0)
        said = result.read(_RESULT_BYTES).decode("utf-8", errors="replace").strip()
    if process.returncode == _NO_SANDBOX and said.startswith("no sandbox: "):
        raise PreflowError(
            f"{said}; running a model's code needs Linux 5.13 or newer on x86-64 or arm64 with Landlock and seccomp: "
            "use another verifier here"
        )
    if late:
        return Outcome(False, "time")
    if said == token:
        return Outcome(True, "passed")
    return Outcome(False, said.removeprefix("raised ") if said.startswith("raised ") else "ended early")
