"""What a person sees while a run goes on: a table that lives in a terminal, plain lines anywhere else."""

import json
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tasks.outcome import StageResult

_MARKS = {"ran": "green", "cached": "blue", "failed": "red", "skipped": "yellow", "running": "bold", "waiting": "dim"}
PROGRESS_EVERY = 10.0  # seconds between two lines on the progress of one stage, where there is no terminal
_NOISE = (
    *("Use `dvc push`", "To track the changes", "\tgit add", "To enable auto staging", "\tdvc config"),
    *("Updating lock", "Generating lock"),
)


class View:
    """Show the stages of one run on standard error. Enter it before the run and leave it after."""

    def __init__(self, stages: Iterable[str], journals: Path, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._rows: dict[str, dict[str, Any]] = {name: {"state": "waiting", "seconds": 0.0} for name in stages}
        self._journals = journals
        self._cursor: dict[Path, int] = {}
        self._mutex = threading.RLock()
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()
            self.console.print(self._table())

    def start(self, name: str) -> None:
        """A stage begins."""
        with self._mutex:
            self._rows[name] |= {"state": "running", "began": time.monotonic()}
        self._say(f"{name}: starts")

    def line(self, name: str, text: str) -> None:
        """A line of a stage's output; a terminal shows the journal's figures instead."""
        if text.startswith(_NOISE) or (text.startswith(f"[{name}]") and not self._due(name)):
            return
        self._say(text if text.startswith(("[", name)) else f"{name}: {text}")

    def result(self, result: StageResult) -> None:
        """A stage has ended."""
        with self._mutex:
            self._rows[result.name] |= {"state": result.state, "seconds": result.seconds, "reason": result.reason}
        tail = f": {result.reason}" if result.reason else ""
        took = f" in {result.seconds:.1f} s" if result.seconds else ""
        self._say(f"{result.name}: {result.state}{took}{tail}")

    def _due(self, name: str) -> bool:
        """Whether it is time for a line on a stage's progress again: a log is read afterwards, so they are few."""
        now = time.monotonic()
        with self._mutex:
            due = bool(now - self._rows[name].get("told", -PROGRESS_EVERY) >= PROGRESS_EVERY)
            if due:
                self._rows[name]["told"] = now
        return due

    def _say(self, text: str) -> None:
        if not self.console.is_terminal:
            print(text, file=sys.stderr, flush=True)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title, side in (("stage", "left"), ("state", "left"), ("s", "right"), ("progress", "left"), ("", "left")):
            table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
        with self._mutex:
            for name, row in self._rows.items():
                running = row["state"] == "running"
                if running:
                    row["seconds"] = time.monotonic() - row["began"]
                    self._read(name, row)
                seconds = f"{row['seconds']:.0f}" if row["seconds"] else ""
                state = Text(row["state"], style=_MARKS[row["state"]])
                note = _figures(row) if running else row.get("reason", "")
                table.add_row(name, state, seconds, _bar(row) if running else "", Text(note, overflow="ellipsis"))
        return Group(table)

    def _read(self, name: str, row: dict[str, Any]) -> None:
        """Take the newest progress from the stage's newest journal."""
        folders = [path for path in self._journals.glob(f"{name}-*") if path.name.removeprefix(f"{name}-").isdigit()]
        for folder in sorted(folders, key=lambda path: int(path.name.rsplit("-", 1)[1]))[-1:]:
            path = folder / "events.jsonl"
            if not path.exists():
                return
            with path.open("rb") as file:
                file.seek(self._cursor.get(path, 0))
                text = file.read()
            whole = text.rfind(b"\n") + 1
            self._cursor[path] = self._cursor.get(path, 0) + whole
            for line in text[:whole].splitlines():
                if b'"progress"' in line:
                    event = json.loads(line)
                    row["progress"] = (event.get("done", 0), event.get("total", 0), event.get("figures", {}))


def _bar(row: dict[str, Any], width: int = 16) -> str:
    done, total, _ = row.get("progress", (0, 0, {}))
    if not total:
        return ""
    filled = round(width * min(1.0, done / total))
    return f"{'━' * filled}{'·' * (width - filled)} {done}/{total}"


def _figures(row: dict[str, Any]) -> str:
    _, _, figures = row.get("progress", (0, 0, {}))
    return "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:4])
