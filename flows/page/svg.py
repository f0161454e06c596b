"""Charts as inline SVG: points, lines and intervals on two axes. Colours are classes, so that the page's style decides.

Units are those of the picture's own grid, of which one is about a pixel on a phone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import floor, log2, log10

from markupsafe import Markup

Scale = Callable[[float], float]

WIDTH, HEIGHT = 270.0, 195.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 10.0, 8.0, 36.0


@dataclass(frozen=True)
class Point:
    """One value, with its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    says: str = ""
    """Shown where a mouse rests on it; else x and y are."""
    size: float = 4.0


@dataclass(frozen=True)
class Series:
    """Points of one kind."""

    name: str
    points: Sequence[Point]
    colour: str
    """A class of the page's style."""
    joined: bool = True


@dataclass(frozen=True)
class Figure:
    """A picture with its caption and what its colours mean."""

    caption: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = field(default=())
    """(colour, name)"""
    note: str = ""


def chart(
    caption: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str = "",
    note: str = "",
    doubling: bool = False,
    reference: tuple[tuple[float, float], tuple[float, float]] | None = None,
    numbered: bool = True,
) -> Figure | None:
    """Series over two axes; None where there is nothing to show.

    Args:
        x, y: names of the axes.
        doubling: each x is twice the one before, and they stand equally far apart.
        reference: two ends of a line to hold the points against.
        numbered: whether x means more than an order.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return None
    place = (lambda value: log2(max(value, 1e-9))) if doubling else float
    ends = [*reference] if reference else []
    low_x, high_x = _range([place(point.x) for point in points] + [end[0] for end in ends])
    heights = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    low_y, high_y = _range(heights + [end[1] for end in ends])

    def across(value: float) -> float:
        return LEFT + (place(value) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    round_ones = ticks(low_x, high_x, 4) if numbered else []
    marks_x = sorted({point.x for point in points}) if doubling else round_ones
    parts = [*_grid_y(ticks(low_y, high_y, 4), up), *_grid_x(marks_x, across), *_names(x, y)]
    if reference:
        (x1, y1), (x2, y2) = reference
        parts.append(_line(across(x1), up(y1), across(x2), up(y2), "reference"))
    for one in series:
        parts += _series(one, across, up)
    named = [(one.colour, one.name) for one in series if one.name]
    whole = Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>')
    return Figure(caption, whole.format(WIDTH, HEIGHT, caption, Markup("").join(parts)), named, note)


def text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> Markup:
    """Words at a place."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, words)


def number(value: float) -> str:
    """A number as an axis or a tip shows it."""
    shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return shown.replace("-", "−")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within a range, at most so many and one."""
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = -(-low // step)
    return [round((first + index) * step, 10) for index in range(int((high - first * step) / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _grid_y(marks: Iterable[float], up: Scale) -> Iterable[Markup]:
    for mark in marks:
        yield _line(LEFT, up(mark), WIDTH - RIGHT, up(mark), "grid")
        yield text(LEFT - 6, up(mark) + 3.5, number(mark), anchor="end")


def _grid_x(marks: Iterable[float], across: Scale) -> Iterable[Markup]:
    for mark in marks:
        yield text(across(mark), HEIGHT - BOTTOM + 15, number(mark), anchor="middle")


def _names(x: str, y: str) -> Iterable[Markup]:
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x, kind="axis", anchor="middle")
    if y:
        turned = Markup(
            '<text transform="translate(11 {:.1f}) rotate(-90)" class="axis" text-anchor="middle">{}</text>'
        )
        yield turned.format((TOP + HEIGHT - BOTTOM) / 2, y)


def _series(one: Series, across: Scale, up: Scale) -> Iterable[Markup]:
    banded = [
        (across(point.x), up(point.low), up(point.high))
        for point in one.points
        if point.low is not None and point.high is not None
    ]
    yield Markup('<g class="{}">').format(one.colour)
    if one.joined and len(banded) > 1:
        edge = [(x, high) for x, _, high in banded] + [(x, low) for x, low, _ in reversed(banded)]
        yield Markup('<polygon class="band" points="{}"/>').format(_path(edge))
    elif not one.joined:
        for x, low, high in banded:
            yield _line(x, low, x, high, "reach")
    if one.joined and len(one.points) > 1:
        yield Markup('<polyline class="line" points="{}"/>').format(
            _path([(across(point.x), up(point.y)) for point in one.points])
        )
    for point in one.points:
        says = point.says or f"{one.name}: {number(point.x)}, {number(point.y)}".removeprefix(": ")
        yield Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
            across(point.x), up(point.y), point.size, says
        )
    yield Markup("</g>")


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)
