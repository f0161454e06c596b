"""Lineage as a picture: an SVG of boxes in columns, drawn by hand so that it opens anywhere, offline.

Columns follow what was made from what; within a column, boxes stand near those that they come from.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from flows.lineage import Lineage, Node
from flows.lineage_touch import BUILT, CHOSEN, READ, TRAINED

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, TOP = 216, 58, 74, 18, 28, 86
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
_PASSES = 4


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
    places = _places(found)
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN
    title = f"Lineage of {found.subject}"
    note = found.facts.title if found.facts else f"{len(found.nodes)} things, {len(found.edges)} steps"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'{_FONT} role="img"><title>{escape(title)}</title>',
        f'<rect width="{width}" height="{height}" fill="#f8fafc"/>',
        f'<text x="{MARGIN}" y="38" font-size="20" font-weight="600" fill="#0f172a">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="60" font-size="13" fill="#475569">{escape(_cut(note, 110))}</text>',
        *(_line(places[source], places[target]) for source, target in found.edges),
        *(_box(node, *places[key], asked=key == found.start) for key, node in found.nodes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _places(found: Lineage) -> dict[str, tuple[int, int]]:
    """Left upper corner of every box."""
    columns: dict[int, list[str]] = {}
    depths = _depths(found)
    for key in found.nodes:
        columns.setdefault(depths[key], []).append(key)
    ranks = {key: float(rank) for keys in columns.values() for rank, key in enumerate(keys)}
    for turn in range(_PASSES):
        for depth in sorted(columns, reverse=turn % 2 == 1):
            columns[depth].sort(key=lambda key: _middle(found, key, ranks, down=turn % 2 == 1))
            ranks |= {key: rank - len(columns[depth]) / 2 for rank, key in enumerate(columns[depth])}
    most = max(map(len, columns.values()))
    places = {}
    for depth, keys in columns.items():
        above = (most - len(keys)) * (HEIGHT + GAP_Y) // 2
        for rank, key in enumerate(keys):
            places[key] = (MARGIN + depth * (WIDTH + GAP_X), TOP + above + rank * (HEIGHT + GAP_Y))
    return places


def _middle(found: Lineage, key: str, ranks: Mapping[str, float], down: bool) -> float:
    near = [ranks[other] for other in found.next(key, down)]
    return sum(near) / len(near) if near else ranks[key]


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


def _line(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1, x2, y2 = source[0] + WIDTH, source[1] + HEIGHT // 2, target[0], target[1] + HEIGHT // 2
    bend = max(GAP_X // 2, (x2 - x1) // 2)
    return (
        f'<path d="M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}" fill="none" '
        'stroke="#94a3b8" stroke-width="1.4" opacity="0.75"/>'
    )


def _box(node: Node, x: int, y: int, asked: bool) -> str:
    fill, line = _FILLS[node.kind]
    dark = fill == line
    ink, faint = ("#f8fafc", "#cbd5e1") if dark else ("#0f172a", "#475569")
    accent = _WORDS.get(node.word, line)
    digest = node.id.rsplit(" ", 1)[-1][:8] if node.kind in ("data", "model") else ""
    second = " · ".join(filter(None, [node.word if node.word != "holds" else "", digest]))
    third = node.note or (f"{len(node.runs)} runs" if len(node.runs) > 1 else "".join(node.runs))
    told = escape("\n".join(filter(None, [node.label, node.word, node.note, ", ".join(node.runs)])))
    name = escape(_cut(node.label.removeprefix("data/"), 30))
    stroke = 3 if asked else 1.4
    radius = 18 if node.kind == "model" else 6
    return (
        f'<g><title>{told}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{radius}" '
        f'fill="{fill}" stroke="{accent}" stroke-width="{stroke}"/>'
        f'<text x="{x + 14}" y="{y + 20}" font-size="13" font-weight="600" fill="{ink}">{name}</text>'
        f'<text x="{x + 14}" y="{y + 36}" font-size="11" fill="{accent if not dark else faint}">{escape(second)}</text>'
        f'<text x="{x + 14}" y="{y + 50}" font-size="10.5" fill="{faint}">{escape(_cut(third, 36))}</text></g>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
