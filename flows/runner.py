"""One stage as a child process: exactly `dvc --wait-for-lock repro -s STAGE`, watched, and ended with us.

DVC reports every failure as 255 and swallows how it came about, so the stage's journal says what happened.
"""

import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from flows import dvc
from flows.output import Output, kept
from flows.processes import SAVING, end_group, spawn
from rlhf.errors import Busy, Preempted, PreflowError
from tasks.journal import home
from tasks.locks import IN_USE
from tasks.outcome import StageResult

OnLine = Callable[[str], None]

SIDE_BY_SIDE = 2  # branches of a run, cells of a comparison: a stage is one thread, and more would slow each other down
GO_ON = "the same command goes on from there"
STOPPED = f"stopped before it was done; {GO_ON}"
AGAIN = 3  # times that a stage is begun anew which was asked to stop while nobody asked us
_MINUTE = 60.0
_MOMENT = 1.0  # seconds: who stops a service may end all its processes at once, and a stage before we hear of it
_EXITED = re.compile(r"exited with (-?\d+)")
_NOT_KEPT = re.compile(r"^ERROR: failed to transfer '\w+' - (?:\[Errno \d+\] )?([^:\n]+)", re.MULTILINE)
_NOISE = ("ERROR:", "Running stage", "> ", "Updating lock", "Generating lock", "Use `dvc push`", "To track", "Stage '")


@dataclass(frozen=True)
class Place:
    """Where a run works and where it keeps its books."""

    owner: Path
    """The checkout that has `.preflow/`, `mlruns/` and the DVC cache."""
    tree: Path
    """The checkout whose dvc.yaml is run: `owner` itself, or a worktree of it."""
    run: str
    """Name of the run."""

    @property
    def journals(self) -> Path:
        """Journals and logs of this run."""
        return home(self.owner) / "journal" / self.run

    @property
    def reports(self) -> Path:
        """Where a refusal leaves what it found, for people; git ignores it."""
        return self.owner / "reports" / self.run


def run_stage(
    place: Place, name: str, *, on_line: OnLine, cancel: threading.Event, force: bool = False, patience: float = 120
) -> StageResult:
    """Bring one stage up to date; what it reads must be there. Never raises for a stage that fails.

    A stage that somebody else asked to stop (SIGTERM: its machine is wanted) has saved what it trained, and is begun
    again, a few times.

    Args:
        on_line: gets every line of output as it comes.
        cancel: set it from any thread to end the stage, and all that it started, once it has saved the step that it is
            in, or after `SAVING` seconds.
        force: run even when nothing changed (`-f`).
        patience: seconds to wait for another process that holds this stage or its files.
    """
    first, again = time.monotonic(), 0
    heard, waiting = _but_what_is_in_use(on_line), once_a_minute(on_line)
    while True:
        began, before = time.monotonic(), _attempts(place, name)
        code, output = _attempt(place, name, heard, cancel, force)
        exit_code, reason = _explain(place, name, before, output.text) if code else _kept(output.text)
        terminated = code == -signal.SIGTERM or reason == killed_by(signal.SIGTERM)
        preempted = terminated or exit_code == Preempted.exit_code
        if code == 0 and exit_code == 0:
            state = "ran" if f"Running stage '{name}'" in output.plain else "cached"
            result = StageResult(name, state)  # type: ignore[arg-type]
        elif cancel.is_set() or (preempted and cancel.wait(_MOMENT)):
            result = StageResult(name, "stopped", 0.0, STOPPED, Preempted.exit_code)
        elif preempted and (again := again + 1) <= AGAIN:
            on_line(f"{name}: {reason}: begun again, {again} of {AGAIN} times")
            continue
        else:
            result = StageResult(name, "failed", 0.0, reason, exit_code)
            if exit_code == Busy.exit_code and time.monotonic() - first < patience:
                waiting(f"{name}: waiting: {reason}")
                cancel.wait(1.0)
                continue
        return replace(result, seconds=round(time.monotonic() - began, 2))


def _but_what_is_in_use(on_line: OnLine) -> OnLine:
    """Passes on what a stage says, but for locks of others: the reason of its end tells that."""
    return lambda line: None if any(text in line for text in (IN_USE, *dvc.BUSY)) else on_line(line)


def once_a_minute(on_line: OnLine) -> OnLine:
    """Passes on a line a minute: who waits looks every second or two."""
    said = -math.inf

    def told(line: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _MINUTE:
            said = time.monotonic()
            on_line(line)

    return told


def _attempt(place: Place, name: str, on_line: OnLine, cancel: threading.Event, force: bool) -> tuple[int, Output]:
    argv = [str(dvc.program()), "--wait-for-lock", "repro", *(["-f"] if force else []), "-s", name]
    own = {"PREFLOW_RUN": place.run, "PREFLOW_HOME": str(home(place.owner)), "PREFLOW_REPORTS": str(place.reports)}
    with kept(place.journals / f"{name}.log", on_line) as output:
        process = spawn(argv, cwd=place.tree, env=dvc.environ() | own, output=output.raw)
        try:
            while process.poll() is None and not cancel.is_set():
                output.pass_on()
                cancel.wait(0.1)
        finally:
            if process.poll() is None:
                end_group(process, SAVING)
            output.pass_on(ended=True)
        return process.returncode, output


def tail(path: Path, seen: int, on_line: OnLine) -> int:
    """Hand over the whole lines after byte `seen`; returns where they end."""
    with path.open("rb") as file:
        file.seek(seen)
        text = file.read()
    whole = text.rfind(b"\n") + 1
    for line in text[:whole].decode("utf-8", "replace").splitlines():
        if line.strip():
            on_line(line)
    return seen + whole


def _attempts(place: Place, name: str) -> set[Path]:
    pattern = re.compile(re.escape(name) + r"-\d+")
    return {path for path in place.journals.glob(f"{name}-*") if pattern.fullmatch(path.name)}


def _explain(place: Place, name: str, before: set[Path], output: str) -> tuple[int, str]:
    """Exit code and reason of a failure: from the journal, else from what was printed last."""
    for folder in _attempts(place, name) - before:
        event = last_event(folder, "end")
        if event is not None and event["exit_code"] != 0:  # else it ended well, and what came after it did not
            return int(event["exit_code"]), str(event["reason"])  # type: ignore[call-overload]
    if any(text in output for text in dvc.BUSY):
        return Busy.exit_code, "another dvc process holds its files"
    found = _EXITED.search(output)
    code = int(found[1]) if found else 1
    if code < 0 or code > 128:
        return 1, killed_by(-code if code < 0 else code - 128)
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(_NOISE)]
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    known = {cls.exit_code for cls in PreflowError.__subclasses__()}
    reason = (lines if found else errors or lines)[-1:] or errors[-1:] or ["no output"]
    return (code if code in known else 1), reason[0].removeprefix(f"{name}: ")


def _kept(output: str) -> tuple[int, str]:
    """Exit code and reason of a dvc that says that all went well: it does so, too, of files that its cache lacks."""
    if found := _NOT_KEPT.search(output):
        return 1, f"it is done, and DVC could not keep it in its cache ({found[1]}); make room, and {GO_ON}"
    return 0, ""


def killed_by(number: int) -> str:
    """What to say of a process that a signal has ended."""
    hint = "; that is also how the kernel ends what outgrows the memory: lower max_batch_tokens" if number == 9 else ""
    return f"killed by signal {number}{hint}"


def last_event(folder: Path, kind: str) -> dict[str, object] | None:
    """The newest event of a kind in a journal folder; what a kill or a full disk has torn is passed over."""
    found = None
    path = folder / "events.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            found = event if event["event"] == kind else found
    return found
