"""What a person sees while a run goes on: a table that lives in a terminal, few plain lines anywhere else."""

import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from flows import view_lines
from flows.history import Upstream, remaining
from flows.progress import Progress
from flows.runner import SIDE_BY_SIDE
from tasks.outcome import StageResult

PROGRESS_EVERY = 30.0  # seconds between two lines on the progress of one stage, where there is no terminal
_NOISE = (
    *("Use `dvc push`", "To track the changes", "\tgit add", "To enable auto staging", "\tdvc config"),
    *("Updating lock", "Generating lock", "Running stage", "> ", "Stage '", "Data and pipelines are up to date"),
    "ERROR: failed to reproduce",
)


@dataclass
class Row:
    """One stage of the table."""

    progress: Progress
    known: float | None
    """Seconds that it took in an earlier run."""
    state: str = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""
    """Why it failed, was stopped or skipped; while it runs, the last line that it said."""
    stepped: float = 0.0
    """When its newest step was seen."""
    told: float = 0.0
    """When a line was last printed about it."""


class View:
    """Show the stages of one run on standard error. Enter it before the run and leave it after."""

    def __init__(
        self,
        upstream: Upstream,
        journals: Path,
        *,
        todo: Collection[str] | None = None,
        known: Mapping[str, float] | None = None,
        slots: int = SIDE_BY_SIDE,
        title: str = "",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            upstream: the stages in the order of the graph, each with those that it waits for.
            journals: of this run.
            todo: stages that may have to run; None for all.
            known: seconds that stages took in earlier runs, as far as that is known.
            slots: stages side by side.
            title: what this run is.
            clock: seconds, from anywhere on.
        """
        self.console = console or moving()
        self._upstream, self._slots, self._title, self._clock = upstream, slots, title, clock
        known = known or {}
        self._rows = {name: Row(Progress(name, journals), known.get(name)) for name in upstream}
        self._todo = set(upstream if todo is None else todo)
        self._began = clock()
        self._alike: tuple[str, list[str]] = ("", [])
        self._mutex = threading.RLock()
        self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_interactive:
            self._live.start()
        else:
            left = self.left()
            about = f"; about {view_lines.clock(left)}, as before" if left else ""
            if self._title:
                self._say(f"{self._title}: {len(self._todo)} of {len(self._rows)} stages to look at{about}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_interactive:
            self._live.stop()
            self.console.print(self.table(whole=True))
        else:
            self._flush()

    def start(self, name: str) -> None:
        """A stage begins."""
        with self._mutex:
            row = self._rows[name]
            row.state, row.began, row.told = "running", self._clock(), self._clock()
        self._say(f"{name}: starts")

    def line(self, name: str, text: str) -> None:
        """A line of a stage's output; of its progress the journal tells more."""
        if text.startswith(_NOISE):
            return
        if text.startswith(f"[{name}]"):
            self._tick(name)
            return
        with self._mutex:
            self._rows[name].note = text
        self._say(text if text.startswith(name) else f"{name}: {text}")

    def result(self, result: StageResult) -> None:
        """A stage has ended. Why it failed is left to the summary, which says it once."""
        with self._mutex:
            row = self._rows[result.name]
            if row.state == "running":
                row.progress.read()
            row.state, row.seconds, row.note = result.state, result.seconds, result.reason
        took = f" in {view_lines.clock(result.seconds)}" if result.seconds else ""
        if took:
            figures = row.progress.told() if result.state == "ran" else ""
            self._say(f"{result.name}: {result.state}{took}{': ' if figures else ''}{figures}")
        else:
            self._fold(result.state + (f": {result.reason}" if result.reason else ""), result.name)

    def left(self) -> float | None:
        """Seconds until the run is done; None while nobody knows how long some stage takes, or which will run."""
        with self._mutex:
            if any(row.state in ("failed", "stopped") for row in self._rows.values()):
                return None
            states = {name: row.state for name, row in self._rows.items() if name in self._todo}
            ahead = [name for state in ("running", "waiting") for name in states if states[name] == state]
            left = {name: self._left(name) for name in ahead}
        known = {name: seconds for name, seconds in left.items() if seconds is not None}
        return remaining(self._upstream, known, self._slots) if len(known) == len(left) else None

    def table(self, whole: bool = False) -> Group:
        """As wide as the terminal is now, and no higher; `whole` for every stage, however many."""
        width, height = self.console.size
        with self._mutex:
            for row in self._rows.values():
                if row.state == "running":
                    self._look(row)
            cells = [self._cells(name, row) for name, row in self._rows.items()]
        done = sum(row.state in ("ran", "cached") for row in self._rows.values())
        left, now = self.left(), view_lines.clock(self._clock() - self._began)
        foot = f"{done} of {len(cells)} stages done, {now}" + (f"; about {view_lines.clock(left)} left" if left else "")
        room = len(cells) if whole else max(1, height - 5)  # title, header, foot, and a line of folded stages each way
        lines = view_lines.table(cells, width, room)
        title = [] if whole or not self._title else [_cut(self._title, width, "bold")]
        return Group(*title, *lines, *([] if whole else [_cut(foot, width, "dim")]))

    def _cells(self, name: str, row: Row) -> view_lines.Cells:
        progress, running = row.progress, row.state == "running"
        seconds = self._clock() - row.began if running else row.seconds
        note = (progress.told() or row.note) if running or row.state == "ran" else row.note
        steps = (progress.done, progress.total) if running else (0, 0)
        left = self._left(name) if running else None
        return view_lines.Cells(name, row.state, seconds, steps, progress.rate if running else None, left, note)

    def _left(self, name: str) -> float | None:
        """Of one stage: by what it took before and by its pace, whichever is later: steps are not all it does."""
        row = self._rows[name]
        if row.state == "waiting":
            return row.known
        now = self._clock()
        steps = row.progress.left
        known = [] if row.known is None else [row.known - (now - row.began)]
        paced = [] if steps is None else [steps - (now - row.stepped)]
        return max(0.0, *known, *paced) if known or paced else None

    def _look(self, row: Row) -> None:
        if row.progress.read():
            row.stepped = self._clock()

    def _tick(self, name: str) -> None:
        """A stage has moved on; a log is read afterwards, so lines on that are few."""
        if self.console.is_interactive:
            return
        with self._mutex:
            row, now = self._rows[name], self._clock()
            if now - row.told < PROGRESS_EVERY:
                return
            row.told = now
            self._look(row)
            text = view_lines.plain(self._cells(name, row))
        self._say(text)

    def _fold(self, what: str, name: str) -> None:
        """Results that are alike become one line: most stages of most runs are unchanged."""
        with self._mutex:
            if self._alike[0] != what:
                self._flush()
                self._alike = (what, [])
            self._alike[1].append(name)

    def _flush(self) -> None:
        with self._mutex:
            (what, names), self._alike = self._alike, ("", [])
        if names:
            self._print(f"{', '.join(names)}: {what}")

    def _say(self, text: str) -> None:
        self._flush()
        self._print(text)

    def _print(self, text: str) -> None:
        if not self.console.is_interactive:
            print(text, file=self.console.file, flush=True)


def moving() -> Console:
    """Standard error, where what moves is shown; in a log nothing moves.

    FORCE_COLOR makes rich take a log for a terminal: colours do no harm there, a table that moves does.
    """
    return Console(stderr=True, highlight=False, force_interactive=None if sys.stderr.isatty() else False)


def _cut(text: str, width: int, style: str) -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line
