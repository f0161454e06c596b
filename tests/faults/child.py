"""Work in a process of its own, forked from the test: it may be killed, and costs no imports."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults import points


def ended(work: Callable[[], object], errors: Path | None = None, fault: str = "") -> int:
    """Do the work in a fork; its exit code, or minus the signal that ended it. Its stderr goes to `errors`."""
    return waited(begun(work, errors, fault))


def begun(work: Callable[[], object], errors: Path | None = None, fault: str = "") -> int:
    """The process id of a fork that does the work and exits with 0, or 1 where it raises.

    `fault` is what `tests.faults.points` is to do to it, and to the programs that it starts.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if errors is not None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        faulty(fault)
        work()
        code = 0
    except SystemExit as asked:
        code = int(asked.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def waited(pid: int) -> int:
    """How a fork ended."""
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def faulty(fault: str) -> None:
    """In a fork: from now on it has these faults, and so have the programs that it starts."""
    path = os.pathsep.join(filter(None, [str(points.ON_PATH), os.environ.get("PYTHONPATH", "")]))
    os.environ.update({points.VARIABLE: fault, "PYTHONPATH": path} if fault else {})
    points.arm(fault)
