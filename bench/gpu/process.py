"""A part's process and all that it starts: ended together, at its limit or when this one is interrupted."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.speed.sides import SURROUNDINGS
from bench.speed.store import ROOT
from tasks.variables import ALLOCATOR

TOLD = 12
"""Last lines of its log, where it failed."""


class Failed(Exception):
    """A part did not come to its end; why, and the end of its log."""


def run(name: str, limit: float | None, rehearse: bool, folder: Path) -> dict[str, Any]:
    """What a part found. Raises Failed."""
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.gpu.part", name, str(result), *(["--rehearse"] if rehearse else [])]
    code = waited_for(command, limit, log)
    if code != 0 or not result.exists():
        why = f"not done after {limit:.0f} s" if code is None else f"ended with {code}"
        raise Failed("\n".join([why, *log.read_text("utf-8", "replace").splitlines()[-TOLD:]]))
    found: dict[str, Any] = json.loads(result.read_text("utf-8"))
    return found


def waited_for(command: list[str], limit: float | None, log: Path) -> int | None:
    """Its exit code, or None where it was ended at its limit; nothing that it started is left."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ | SURROUNDINGS | ALLOCATOR,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
