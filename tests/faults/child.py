"""Work in a process of its own, forked from the test: it may be killed, and costs no imports."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _pytest.monkeypatch import derive_importpath


def ended(work: Callable[[], object], errors: Path | None = None) -> int:
    """Do the work in a fork; its exit code, or minus the signal that ended it. Its stderr goes to `errors`."""
    return waited(begun(work, errors))


def begun(work: Callable[[], object], errors: Path | None = None) -> int:
    """The process id of a fork that does the work and exits with 0, or 1 where it raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if errors is not None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
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


def killed_at(place: str, call: int = 1, sign: int = signal.SIGKILL) -> None:
    """In a fork: from now on the call number `call` of the function at `place` is a kill -9 instead."""
    name, owner = derive_importpath(place, raising=True)
    original, calls = getattr(owner, name), [0]

    def dying(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), sign)
        return original(*arguments, **named)

    setattr(owner, name, dying)
