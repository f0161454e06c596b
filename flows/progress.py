"""How far a running stage is, read from its journal as it grows: steps, their rate, the figures that matter."""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WINDOW = 20  # newest steps that a rate is taken from, so that it follows what changes

# What a person watches, most telling first; names are those of the metrics, without the stage.
WATCHED = (
    *("policy_rm_accuracy", "held_out_rm_accuracy", "val_accuracy", "accuracy", "reward", "val_held_out_reward"),
    *("kl", "val_nll", "stop_rate", "margin", "loss"),
)


@dataclass
class Progress:
    """One stage; `read` brings it up to date."""

    stage: str
    folder: Path
    """Journals of the run."""
    done: int = 0
    total: int = 0
    part: str = ""
    """What of the stage is at work, where that has a name of its own ("policy_rm")."""
    figures: dict[str, float] = field(default_factory=dict)
    """Newest value of every metric."""
    _steps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _path: Path | None = None
    _seen: int = 0

    def read(self) -> bool:
        """Take what the newest attempt has written since; True where there are new steps."""
        newest = self._newest()
        if newest != self._path:
            self._path, self._seen, self.done, self.total = newest, 0, 0, 0
            self._steps.clear()
        steps = False
        for event in self._events():
            if event["event"] == "progress":
                self._step(event)
                steps = True
            else:
                self._measure(event["metrics"])
        return steps

    @property
    def rate(self) -> float | None:
        """Steps a second; None before the second one."""
        if len(self._steps) < 2:
            return None
        (began, first), (ended, last) = self._steps[0], self._steps[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def left(self) -> float | None:
        """Seconds for the steps that are left, counted from the newest; what comes behind them is not known here."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None

    def told(self, most: int = 3) -> str:
        """The most telling figures, "accuracy 0.91  loss 0.31  policy_rm"."""
        shown = [f"{name} {self.figures[name]:.3g}" for name in WATCHED if name in self.figures]
        return "  ".join([*shown[:most], *filter(None, [self.part])])

    def _step(self, event: dict[str, Any]) -> None:
        if event["total"] != self.total or event["done"] < self.done:  # another part of the stage begins
            self._steps.clear()
        self.done, self.total = event["done"], event["total"]
        self._steps.append((event["time"], self.done))
        self.figures |= event.get("figures", {})

    def _measure(self, metrics: dict[str, float]) -> None:
        for full, value in metrics.items():
            part, _, name = full.partition("/")
            self.figures[name] = value
            self.part = "" if self.stage.startswith(part) else part

    def _newest(self) -> Path | None:
        prefix = f"{self.stage}-"
        attempts = {path.name.removeprefix(prefix): path for path in self.folder.glob(f"{prefix}*")}
        numbers = [int(number) for number in attempts if number.isdigit()]
        return attempts[str(max(numbers))] / "events.jsonl" if numbers else None

    def _events(self) -> Iterator[dict[str, Any]]:
        """Whole lines only; the half of one waits for its other half."""
        if self._path is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._seen)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._seen += whole
        for line in text[:whole].splitlines():
            if line.startswith((b'{"event": "progress"', b'{"event": "metrics"')):
                with suppress(ValueError):  # torn by a full disk; a picture of progress is worth no failure
                    yield json.loads(line)
