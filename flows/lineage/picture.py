"""Lineage as a picture: an SVG of boxes in columns, drawn by hand so that it opens anywhere, offline.

Columns follow what was made from what. Within a column, boxes stand near those that they come from. A line that
passes a column has a place of its own there, so that none runs through a box.
"""

from collections.abc import Sequence
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path

from flows.lineage.nodes import Lineage, Node
from flows.lineage.touch import BUILT, CHOSEN, READ, TRAINED

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, TOP = 248, 58, 52, 18, 28, 86
_FILLS = {
    "source": ("#eef2f6", "#64748b"),
    "rows": ("#1e293b", "#1e293b"),
    "run": ("#1e293b", "#1e293b"),
    "data": ("#e8f1fb", "#3b6ea8"),
    "model": ("#fdf3e1", "#b7791f"),
    "version": ("#e7f6ec", "#2f855a"),
}
_WORDS = {TRAINED: "#c53030", BUILT: "#b7791f", CHOSEN: "#7b4bb3", READ: "#2f855a", "champion": "#2f855a"}
_FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\""
_PASSES = 6
_BEND = "~"


def write(found: Lineage, path: Path) -> None:
    """An .svg file, or a page with it in it. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = svg(found)
    if path.suffix == ".svg":
        path.write_text(picture, encoding="utf-8")
        return
    name = escape(found.subject)
    style = "body{margin:0;background:#f8fafc}main{overflow:auto;padding:16px}svg{display:block}"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>lineage of {name}</title><style>{style}</style><main>{picture}</main></html>\n",
        encoding="utf-8",
    )


def svg(found: Lineage) -> str:
    """The picture as text."""
    routes = _routes(found)
    places = _places(found, routes)
    width = max([x for x, _ in places.values()] + [720]) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN
    title = f"Lineage of {found.subject}"
    note = found.facts.title if found.facts else f"{len(found.nodes)} things, {len(found.edges)} steps"
    words = dict.fromkeys(node.word for node in found.nodes.values() if node.word in _WORDS)
    legend = "".join(f'<tspan fill="{_WORDS[word]}" dx="14">■ {word}</tspan>' for word in words)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'{_FONT} role="img"><title>{escape(title)}</title>',
        f'<rect width="{width}" height="{height}" fill="#f8fafc"/>',
        f'<text x="{MARGIN}" y="38" font-size="20" font-weight="600" fill="#0f172a">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="60" font-size="13" fill="#475569">{escape(_cut(note, 60))}{legend}</text>',
        *(_line([places[key] for key in route], found.nodes[route[0]]) for route in routes),
        *(_box(node, *places[key], asked=key == found.start) for key, node in found.nodes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _routes(found: Lineage) -> list[list[str]]:
    """Every edge as the nodes it passes: in each column between, a bend of its own, for which room is kept."""
    depths = _depths(found)
    routes = []
    for source, target in found.edges:
        between = range(depths[source] + 1, depths[target])
        routes.append([source, *(f"{_BEND}{depth}|{source}|{target}" for depth in between), target])
    return routes


def _places(found: Lineage, routes: Sequence[Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Left upper corner of every box, and of every bend."""
    depths = _depths(found)
    depths |= {key: int(key[1:].split("|")[0]) for route in routes for key in route if key.startswith(_BEND)}
    near: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for route in routes:
        for one, other in pairwise(route):
            near[True].setdefault(one, []).append(other)
            near[False].setdefault(other, []).append(one)
    columns: dict[int, list[str]] = {}
    for key, depth in depths.items():
        columns.setdefault(depth, []).append(key)
    middles = dict.fromkeys(depths, 0.0)
    for turn in range(_PASSES):
        down = turn % 2 == 1
        for depth in sorted(columns, reverse=down):
            columns[depth].sort(key=lambda key: _mean([middles[other] for other in near[down].get(key, [key])]))
            middles |= _stacked(columns[depth])
    top = min(middle - _tall(key) / 2 for key, middle in middles.items())
    return {
        key: (MARGIN + depths[key] * (WIDTH + GAP_X), round(TOP + middle - _tall(key) / 2 - top))
        for key, middle in middles.items()
    }


def _stacked(keys: Sequence[str]) -> dict[str, float]:
    """Middles of one column, around 0."""
    tall = [_tall(key) + GAP_Y for key in keys]
    ends = list(accumulate(tall))
    return {key: end - size / 2 - ends[-1] / 2 for key, size, end in zip(keys, tall, ends, strict=True)}


def _tall(key: str) -> int:
    return 4 if key.startswith(_BEND) else HEIGHT


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _depths(found: Lineage) -> dict[str, int]:
    """Column of every node: one behind the last of those it was made from. Edges of one run's graph have no cycle."""
    depths = dict.fromkeys(found.nodes, 0)
    for _ in found.nodes:
        before = dict(depths)
        for source, target in found.edges:
            depths[target] = max(depths[target], depths[source] + 1)
        if depths == before:
            break
    return depths


def _line(points: Sequence[tuple[int, int]], source: Node) -> str:
    """From the right edge of a box, straight through its bends, to the left edge of another."""
    first, *between, last = points
    x, y = first[0] + WIDTH, first[1] + HEIGHT // 2
    words = [f"M{x},{y}"]
    for place in (*between, last):
        to_x, to_y = place[0], place[1] + (2 if place in between else HEIGHT // 2)
        words.append(f"C{x + GAP_X // 2},{y} {to_x - GAP_X // 2},{to_y} {to_x},{to_y}")
        x, y = to_x, to_y
        if place in between:
            x += WIDTH
            words.append(f"H{x}")
    colour = _WORDS.get(source.word, "#94a3b8")
    return f'<path d="{" ".join(words)}" fill="none" stroke="{colour}" stroke-width="1.4" opacity="0.7"/>'


def _box(node: Node, x: int, y: int, asked: bool) -> str:
    fill, line = _FILLS[node.kind]
    dark = fill == line
    ink, faint = ("#f8fafc", "#cbd5e1") if dark else ("#0f172a", "#475569")
    accent = _WORDS.get(node.word, line)
    digest = node.id.rsplit(" ", 1)[-1][:8] if node.kind in ("data", "model") else ""
    second = " · ".join(filter(None, [node.word if node.word != "holds" else "", digest]))
    third = node.note or (f"{len(node.runs)} runs" if len(node.runs) > 1 else "".join(node.runs))
    told = escape("\n".join(filter(None, [node.label, node.word, node.note, ", ".join(node.runs)])))
    name = escape(_cut(node.label.removeprefix("data/"), 28))
    stroke = 3 if asked else 1.4
    radius = 18 if node.kind == "model" else 6
    return (
        f'<g><title>{told}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{radius}" '
        f'fill="{fill}" stroke="{accent}" stroke-width="{stroke}"/>'
        f'<text x="{x + 14}" y="{y + 20}" font-size="12.5" font-weight="600" fill="{ink}">{name}</text>'
        f'<text x="{x + 14}" y="{y + 36}" font-size="11" fill="{accent if not dark else faint}">{escape(second)}</text>'
        f'<text x="{x + 14}" y="{y + 50}" font-size="10.5" fill="{faint}">{escape(_cut(third, 36))}</text></g>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
