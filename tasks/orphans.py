"""A stage ends with what started it: from its first moment on, however that was killed, whatever it does itself.

The kernel tells a process that its parent has died. But a shell may stand between it and dvc, and a process that hangs
hears nothing: so another one watches beside it, asks it to end once one of those above it is gone, and makes it end
where it has not done so in the time that a training has to save itself.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import psutil

from rlhf import interruption

LAUNCHER = "PREFLOW_LAUNCHER"
"""Variable that tells a process of several which one has started it."""

_PR_SET_PDEATHSIG = 1
_WATCH = """
import select, sys
from signal import pidfd_send_signal
grace, asked, made = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stage, *above = map(int, sys.argv[4:])
if stage not in select.select([stage, *above], [], [])[0]:
    pidfd_send_signal(stage, asked)
    if not select.select([stage], [], [], grace)[0]:
        pidfd_send_signal(stage, made)
"""


def is_started_for_us() -> bool:
    """Whether dvc, or the first of several processes, has started this one: then it can tell that they are gone."""
    return "DVC_STAGE" in os.environ or LAUNCHER in os.environ


def without_starter() -> dict[str, str]:
    """Environment of a process that is to outlive the stage that starts it."""
    return {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", LAUNCHER)}


def end_with_starter() -> None:
    """Call it before anything that takes time: who started this process may be killed meanwhile.

    Ends the process where that has happened already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, interruption.PARENT_GONE)
    try:
        if above := _above():
            _watch(above)
    except (psutil.NoSuchProcess, ProcessLookupError):
        sys.exit("preflow: DVC_STAGE or PREFLOW_LAUNCHER says that another process has started this one; it is gone")
    except OSError as error:  # of old kernels and strict containers: then the end of its parent alone ends it
        print(f"preflow: nothing watches over this process: {error}", file=sys.stderr)


def below_dvc() -> list[psutil.Process]:
    """The processes above this one up to the dvc that started it, which is the last; none where there is no dvc."""
    above = psutil.Process().parents()
    for number, process in enumerate(above):
        if any(Path(part).name in ("dvc", "dvc.exe") for part in process.cmdline()[:3]):
            return above[: number + 1]
    return []


def _above() -> list[psutil.Process]:
    """Those without any of which this process has no business; raises NoSuchProcess where one is gone."""
    found, parents = below_dvc(), psutil.Process().parents()[:1]  # no parent of a container's first process
    launcher = os.environ.get(LAUNCHER)
    if launcher and launcher != str(os.getppid()):
        raise psutil.NoSuchProcess(int(launcher))
    if "DVC_STAGE" in os.environ and not found:
        raise psutil.NoSuchProcess(os.getppid())
    return found or parents


def _watch(above: list[psutil.Process]) -> None:
    fds: list[int] = []
    try:
        for pid in (os.getpid(), *(process.pid for process in above)):
            fds.append(os.pidfd_open(pid))
        for process in above:
            if not process.is_running():  # its number may have been another's when it was opened
                raise psutil.NoSuchProcess(process.pid)
        for fd in fds:
            os.set_inheritable(fd, True)
        numbers = [interruption.SAVING, int(interruption.PARENT_GONE), int(signal.SIGKILL), *fds]
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _WATCH, *map(str, numbers)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)],
            setsid=True,  # asked to end together with the stage, it would not see to it that the stage does
        )
    finally:
        for fd in fds:
            os.close(fd)
