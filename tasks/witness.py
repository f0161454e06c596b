"""What a journal tells of the process that wrote it: who started it, what it used, and what it left on disk.

Nothing here reaches a stage's result. A `dvc repro` typed by hand gets its follower from here too.
"""

import fcntl
import hashlib
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tasks import orphans, owners
from tasks.journal import home

LARGEST_HASHED = 500_000_000  # bytes; DVC hashes everything a moment later, and more than a second twice is too much


def by_hand(root: Path) -> str:
    """Name of the run that a hand-typed `dvc repro` is: the dvc process that started us, by pid and start time.

    A bare `python -m tasks.<stage>` is a run of its own.
    """
    owner = _starter()
    kind = "hand" if owner.pid == os.getpid() else "dvc"
    began = int(owner.create_time())
    names = [f"{kind}-{owner.pid}-{began + drift}" for drift in (0, -1, 1)]  # the clock may have been set right since
    return next((name for name in names if (home(root) / "journal" / name).is_dir()), names[0])


def origin() -> dict[str, Any]:
    """This process, and the one whose end is the end of a run by hand."""
    this, starter = owners.this_process(), _starter()
    return {
        "pid": this["pid"],
        "process_started": this["started"],
        "owner": this | {"pid": starter.pid, "started": starter.create_time()},
        "command": shlex.join(_without_paths(starter.cmdline())),
    }


def outputs(root: Path, outs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size, number of files and (up to 500 MB) DVC's md5 of each output.

    By it a dvc.lock, which is written after the stage has ended or never, is known to speak of these bytes.
    """
    found: dict[str, dict[str, Any]] = {}
    for out in outs:
        path = root / out
        files = [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())
        size = sum(file.stat().st_size for file in files)
        found[out] = {"size": size, "nfiles": len(files)}
        if size <= LARGEST_HASHED:
            whole = path.is_file()
            md5s = {} if whole else {file.relative_to(path).as_posix(): file_md5(file) for file in files}
            found[out]["md5"] = file_md5(path) if whole else folder_md5(md5s)
    return found


def folder_md5(files: Mapping[str, str]) -> str:
    """Of a folder with these files: DVC takes the md5 of its listing."""
    return hashlib.md5(folder_listing(files), usedforsecurity=False).hexdigest() + ".dir"


def folder_listing(files: Mapping[str, str]) -> bytes:
    """What DVC's cache keeps of a folder: a JSON list of its files' md5, in the order of their paths."""
    listed = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return json.dumps(listed, sort_keys=True).encode()


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def used() -> dict[str, Any]:
    """What the process took of the machine, with those that it has waited for, and, where it used torch, the device and
    kernels that it ran on."""
    usage, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    facts: dict[str, Any] = {
        "cpu_seconds": usage.ru_utime + usage.ru_stime + below.ru_utime + below.ru_stime,
        "peak_memory_gib": usage.ru_maxrss * unit / 2**30,
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        with suppress(RuntimeError):  # of a device that has failed, which must not hide what failed on it
            facts |= _used_by(torch)
    return facts


def _used_by(torch: Any) -> dict[str, Any]:
    facts = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_initialized():
        facts["peak_cuda_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return facts


def follow(root: Path, run: Path) -> None:
    """Have the journals of a run by hand shipped to MLflow while dvc runs, by one process of its own.

    A flow ships its own journals (`PREFLOW_RUN` is set), and a bare stage module leaves them for the next command. The
    tracker is started by name, not imported, so that it is no dependency of any stage.
    """
    if "PREFLOW_RUN" in os.environ or run.name.startswith("hand-"):
        return
    with (run / "follower.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    with (run / "follower.log").open("a") as output:
        subprocess.Popen(
            [sys.executable, "-m", "tasks.tracking", "follow", run.name],
            cwd=root,
            env=orphans.without_starter(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _starter() -> psutil.Process:
    """The dvc process above us, else this process."""
    return (orphans.below_dvc() or [psutil.Process()])[-1]


def _without_paths(words: list[str]) -> list[str]:
    """`dvc repro`, however Python, its options and the environment around it are called."""
    names = [Path(word).name if "/" in word else word for word in words]
    return names[names.index("dvc") :] if "dvc" in names else names
