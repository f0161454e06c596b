"""Which process something belongs to, and whether that is still there: asked of the kernel on its own machine.

Elsewhere nobody can ask; there what it writes or touches counts, by the clock that stamps the files.
"""

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil

from tasks.journal import alive


def this_process() -> dict[str, Any]:
    """Name of this process among those of all machines and boots."""
    started = psutil.Process().create_time()
    return {"host": platform.node(), "machine": machine(), "pid": os.getpid(), "started": started}


def machine() -> str:
    """Where this process's number means something: the boot of a machine and the namespace of a container.

    "" where the system does not say.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def same_kernel(there: str) -> bool:
    """Whether what `machine` said elsewhere is of this boot of this machine, in whatever container."""
    return bool(there) and there.partition(" ")[0] == machine().partition(" ")[0]


def is_alive(owner: Mapping[str, Any]) -> bool | None:
    """None where it is a process of elsewhere: its files alone can tell."""
    same_host = owner["host"] == platform.node()
    here, there = machine(), str(owner.get("machine", ""))
    if there == here if there and here else same_host:  # a host may have got another name since
        return alive(owner["pid"], owner["started"])
    rebooted = same_host and there.partition(" ")[0] != here.partition(" ")[0]
    return False if rebooted else None


def silence(files: Iterable[Path]) -> float:
    """Seconds since the newest of these files was written or touched; infinite where there is none.

    Their server's clock may differ from ours, so a file written there now says what time it is. Where none can be
    written nobody knows, and they count as written now.
    """
    stamps = []
    for path in files:
        with suppress(FileNotFoundError):  # it may go while we look
            if path.is_file():
                stamps.append((path.stat().st_mtime, path.parent))
    if not stamps:
        return float("inf")
    newest, folder = max(stamps)
    try:
        with TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime - newest
    except OSError:
        return 0.0
