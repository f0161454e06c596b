"""The lines of the table of stages: what fits into a terminal of so many columns and rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

STYLES = {"ran": "green", "cached": "blue", "failed": "red", "stopped": "yellow", "skipped": "yellow"}
STYLES |= {"running": "bold", "waiting": "dim"}
BAR = 14  # columns of a bar
BAR_FROM, RATE_FROM, NOTE_FROM = 110, 90, 70  # columns from which there is room for it beside the rest


@dataclass(frozen=True)
class Cells:
    """What is known of one stage."""

    name: str
    state: str
    seconds: float
    steps: tuple[int, int]
    """Done and of how many; (0, 0) where that is not known."""
    rate: float | None
    """Steps a second."""
    left: float | None
    """Seconds."""
    note: str


def table(stages: Sequence[Cells], width: int, room: int) -> list[Text]:
    """A header and a line a stage, cut at `width` columns; of more than `room` stages those around the running ones."""
    names = max(len("stage"), *(len(stage.name) for stage in stages))
    going = _going("progress", "rate", "left", "", width)
    head = _line(f"{'stage':{names}}  {'state':7}", f"{'time':>7}", going, width)
    head.stylize("dim")
    first, last = _window([stage.state for stage in stages], room)
    lines = [_stage(stage, names, width) for stage in stages[first:last]]
    above = [_more(stages[:first], width)] if first else []
    below = [_more(stages[last:], width)] if last < len(stages) else []
    return [head, *above, *lines, *below]


def plain(stage: Cells) -> str:
    """Progress as one line of a log."""
    steps = f"{stage.steps[0]}/{stage.steps[1]}" if stage.steps[1] else stage.state
    left = f"{clock(stage.left)} left" if stage.left else ""
    return "  ".join(filter(None, [f"{stage.name}: {steps}", speed(stage.rate), left, stage.note]))


def clock(seconds: float) -> str:
    """3:07, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(rate: float | None) -> str:
    """12/s, or what a step takes where that is more than a second."""
    if not rate:
        return ""
    return f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def _stage(stage: Cells, names: int, width: int) -> Text:
    """One stage; what it has done or why it failed takes the room of what a running one is doing."""
    rest = " ".join(stage.note.splitlines())
    if stage.state == "running":
        left = clock(stage.left) if stage.left else ""
        rest = _going(_steps(stage, width), speed(stage.rate), left, rest, width)
    seconds = clock(stage.seconds) if stage.seconds or stage.state == "running" else ""
    line = _line(f"{stage.name:{names}}  {stage.state:7}", f"{seconds:>7}", rest, width)
    line.stylize(STYLES[stage.state], names + 2, names + 9)
    return line


def _steps(stage: Cells, width: int) -> str:
    done, total = stage.steps
    if not total:
        return ""
    filled = round(BAR * min(1.0, done / total))
    bar = f"{'━' * filled}{'·' * (BAR - filled)} " if width >= BAR_FROM else ""
    return f"{bar}{done}/{total}"


def _going(steps: str, rate: str, left: str, note: str, width: int) -> str:
    """The columns of a running stage: the narrower the terminal, the fewer."""
    columns = [
        f"{steps:{BAR + 10 if width >= BAR_FROM else 9}}",
        f"{rate:>10}" if width >= RATE_FROM else "",
        f"{left:>7}",
        note if width >= NOTE_FROM else "",
    ]
    return "  ".join(filter(None, columns))


def _line(name: str, seconds: str, rest: str, width: int) -> Text:
    line = Text(f"{name}  {seconds}  {rest}".rstrip(), no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _window(states: Sequence[str], room: int) -> tuple[int, int]:
    """First stage shown and the one behind the last: the running ones, and what ran before them."""
    if len(states) <= room:
        return 0, len(states)
    open_ = [number for number, state in enumerate(states) if state in ("running", "waiting")]
    last = min(len(states), max(room, (open_[0] if open_ else len(states)) + room // 2 + 1))
    return last - room, last


def _more(stages: Sequence[Cells], width: int) -> Text:
    counts = {state: sum(stage.state == state for stage in stages) for state in STYLES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    line = Text(f"… {told}", style="dim", no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line
