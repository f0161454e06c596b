"""DVC as a program: its environment, what it says is unchanged, and its lock file in one order.

Only the command line and the file formats of DVC are used, never its Python modules.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flows.dvc_watch import Watch
from flows.processes import end_group, spawn
from rlhf.errors import Busy, PreflowError
from tasks.graph import Graph
from tasks.lockfile import ENTRY, HEAD
from tasks.redact import logged
from tasks.variables import ALLOCATOR

RWLOCK = ".dvc/tmp/rwlock"
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


def program() -> Path:
    """The `dvc` beside the Python that runs us.

    Raises:
        PreflowError: there is none.
    """
    beside = Path(sys.executable).parent / "dvc"
    found = str(beside) if beside.exists() else shutil.which("dvc")
    if found is None:
        raise PreflowError(f"no dvc beside {sys.executable} or on the PATH; `make setup` installs it")
    return Path(found)


def environ(shell: str = "") -> dict[str, str]:
    """Environment of a dvc command: our Python first, a shell that knows `NAME=value`, the stages' allocator.

    `shell` is another one for the commands of stages.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    shell = shell or shutil.which("bash") or "/bin/sh"
    return {**ALLOCATOR, **os.environ, "PATH": path, "SHELL": shell, "DVC_NO_ANALYTICS": "1"}


def call(root: Path, *arguments: str, patience: float = 30.0, shell: str = "") -> subprocess.CompletedProcess[str]:
    """One dvc command, watched (`flows.dvc_watch`); waits while another dvc holds what it needs.

    Raises:
        Busy: it still does after `patience` seconds.
        DependencyDown: nothing moved for long, and it was ended.
        Preempted: it works with a remote, and what `dvc_watch.heeding` was given is set.
    """
    deadline = time.monotonic() + patience
    while True:
        done = _run(root, arguments, shell)
        done.stderr = logged(done.stderr)  # it names remotes by their URLs; what is printed may be one that is wanted
        if done.returncode == 0 or not any(text in done.stderr for text in BUSY):
            return done
        if time.monotonic() > deadline:
            raise Busy(f"another dvc is at work in {root}: {last_line(done.stderr)}")
        time.sleep(0.5)


def _run(root: Path, arguments: Sequence[str], shell: str) -> subprocess.CompletedProcess[str]:
    words = [str(program()), "--wait-for-lock", *arguments]
    env = {**environ(shell), "COLUMNS": "9999"}  # it breaks the lines of its tables, also where nobody looks
    with spawn(words, cwd=root, env=env, output=subprocess.PIPE, errors=subprocess.PIPE) as process:
        watch = Watch(root, arguments, process.pid)
        try:
            while True:
                try:
                    out, err = (part.decode("utf-8", "replace") for part in process.communicate(timeout=0.1))
                    return subprocess.CompletedProcess(words, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    watch.look()
        finally:
            if process.poll() is None:
                end_group(process)


def default_remote(tree: Path) -> str:
    """Name of the remote that push and pull go to; "" where there is none."""
    return call(tree, "config", "core.remote").stdout.strip()


def status(root: Path) -> dict[str, list[str]]:
    """Stages whose inputs, parameters, command or outputs differ from dvc.lock, each with the reasons in words.

    Raises:
        PreflowError: dvc.yaml or dvc.lock is not usable; the message is DVC's.
    """
    done = call(root, "status", "--json")
    if done.returncode != 0:
        raise PreflowError(f"`dvc status` failed: {last_line(done.stderr)}")
    found: dict[str, list[Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: _reasons(changes) for name, changes in found.items()}


def keep(root: Path, changed: Mapping[str, list[str]]) -> bool:
    """Have the cache keep outputs that it lacks, as after a full disk, and that lie there as dvc.lock names them.

    Without that, their stages would remove them and run again. What was changed meanwhile DVC does not take. True where
    it took something.

    Args:
        changed: what `status` says.
    """
    lacking = " not in cache"
    names = [
        name
        for name, reasons in changed.items()
        if all(reason.endswith(lacking) and (root / reason.removesuffix(lacking)).exists() for reason in reasons)
    ]
    taken = [name for name in names if call(root, "commit", name).returncode == 0]
    return bool(taken)


def cache(root: Path) -> Path:
    """Where DVC keeps the bytes.

    Raises:
        PreflowError: `root` is no DVC project.
    """
    done = call(root, "cache", "dir")
    if done.returncode != 0:
        raise PreflowError(f"`dvc cache dir` failed: {last_line(done.stderr)}")
    return (root / done.stdout.strip().splitlines()[-1]).resolve()


def order_lock(root: Path, graph: Graph) -> bool:
    """Write dvc.lock in the order of dvc.yaml, without stages that are no more; True when that changed it.

    DVC appends entries as stages end, so side-by-side branches leave them in an order of their own. A plain `dvc repro`
    from nothing runs, and writes, in the order of dvc.yaml where that is an order to run in (`load_graph` holds this).
    """
    path = root / "dvc.lock"
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8")
    entries = {match[1]: match[0] for match in ENTRY.finditer(text)}
    ordered = "".join(entries[name] for name in graph.stages if name in entries)
    sorted_ = text.replace("".join(entries.values()), ordered) if entries else text
    if sorted_ == text:
        return False
    fresh = path.with_suffix(".lock.tmp")
    fresh.write_text(sorted_, encoding="utf-8")
    fresh.replace(path)
    return True


def entry(root: Path, stage: str) -> str:
    """What dvc.lock says of a stage, as it is written there.

    Raises:
        PreflowError: nothing.
    """
    text = (root / "dvc.lock").read_text(encoding="utf-8") if (root / "dvc.lock").exists() else ""
    for match in ENTRY.finditer(text):
        if match[1] == stage:
            return match[0]
    raise PreflowError(f"{root / 'dvc.lock'} has no entry of stage {stage}")


def put_entry(root: Path, stage: str, entry: str) -> None:
    """Write what dvc.lock is to say of a stage, in a tree where no dvc is at work."""
    path = root / "dvc.lock"
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    kept = ENTRY.sub(lambda match: "" if match[1] == stage else match[0], text)
    path.write_text(kept + entry, encoding="utf-8")


def mend_rwlock(root: Path) -> None:
    """Forget what killed dvc processes held in this workspace; call with the workspace lock held."""
    if is_stale(root):
        (root / RWLOCK).unlink(missing_ok=True)


def is_stale(root: Path) -> bool:
    """Whether what dvc processes hold in this workspace is torn, or held by none that lives.

    DVC asks only whether a process of that number exists: a zombie, or a stranger with the number, blocks it for ever.
    """
    try:
        held = json.loads((root / RWLOCK).read_text(encoding="utf-8"))
        pids = {int(info["pid"]) for info in held.get("write", {}).values()}
        pids |= {int(info["pid"]) for infos in held.get("read", {}).values() for info in infos}
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # torn by a kill in the middle of a write
    return bool(pids) and not any(_is_dvc(pid) for pid in pids)


def _is_dvc(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        named = any(Path(word).name == "dvc" for word in process.cmdline()[:4])
        return named and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _reasons(changes: list[Any]) -> list[str]:
    words = []
    for change in changes:
        if not isinstance(change, Mapping):
            words.append(str(change))
            continue
        for items in change.values():
            for path, what in items.items():
                inner = what.items() if isinstance(what, Mapping) else [(path, what)]
                words += [f"{name} {state}" for name, state in inner]
    return words


def last_line(text: str) -> str:
    """What dvc said in the end."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("ERROR")] or text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "no output"
