"""The graph of a run as a picture: layers from top to bottom, what reads stands below what it reads.

Arrows that others imply are left out: where rl reads what rejection_sampling made of sft, sft → rl is not drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from flows.page.svg import text
from tasks.graph import Graph

BOX, TALL = 164.0, 42.0
GAP, PITCH = 22.0, 66.0
MARGIN = 6.0
SWEEPS = 7  # an odd number ends downwards, which draws a chain as a straight line

Node = tuple[str, int]
"""A stage in its layer, or a bend of an arrow (named "from>to") in a layer that the arrow passes."""


@dataclass(frozen=True)
class Layout:
    """Where everything stands."""

    x: Mapping[Node, float]
    """Middle of each node."""
    layers: Sequence[Sequence[Node]]
    arrows: Sequence[Sequence[Node]]
    """Each from its stage, over its bends, to the one that reads."""
    width: float


def picture(graph: Graph, seen: Mapping[str, tuple[str, str]]) -> Markup:
    """The graph, where `seen` has the state of each stage and a line to say about it."""
    placed = layout(graph)
    parts = [_arrow(placed, arrow) for arrow in placed.arrows]
    for layer in placed.layers:
        parts += [_box(placed.x[node], _top(node[1]), node[0], *seen[node[0]]) for node in layer if node[0] in seen]
    height = len(placed.layers) * PITCH - (PITCH - TALL) + 2 * MARGIN
    return Markup(
        '<svg class="graph" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" role="img" '
        'aria-label="stages of the run and what each reads">{2}</svg>'
    ).format(placed.width, height, Markup("").join(parts))


def layout(graph: Graph) -> Layout:
    """Layers by the longest way from the start; within them, as near as can be to what is read."""
    above = reduced(graph)
    depth: dict[str, int] = {}
    for name in graph.stages:
        depth[name] = max((depth[other] + 1 for other in above[name]), default=0)
    arrows = [_bends(other, name, depth) for name in graph.stages for other in above[name]]
    layers: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in dict.fromkeys([(name, depth[name]) for name in graph.stages] + [one for way in arrows for one in way]):
        layers[node[1]].append(node)
    x = _across(layers, arrows)
    left = min((x[node] - _reach(node) for node in x), default=0.0) - MARGIN
    shifted = {node: value - left for node, value in x.items()}
    width = max((shifted[node] + _reach(node) for node in shifted), default=0.0) + MARGIN
    return Layout(shifted, layers, arrows, width)


def reduced(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The stages that each reads from, without those that it also reaches through another."""
    before: dict[str, set[str]] = {}
    kept: dict[str, tuple[str, ...]] = {}
    for name, above in graph.upstream.items():
        before[name] = set(above).union(*(before[other] for other in above))
        implied = set().union(*(before[other] for other in above))
        kept[name] = tuple(other for other in above if other not in implied)
    return kept


def _bends(start: str, end: str, depth: Mapping[str, int]) -> list[Node]:
    between = [(f"{start}>{end}", layer) for layer in range(depth[start] + 1, depth[end])]
    return [(start, depth[start]), *between, (end, depth[end])]


def _across(layers: list[list[Node]], arrows: Sequence[Sequence[Node]]) -> dict[Node, float]:
    """Each layer in turn is put under, then over, the middle of its neighbours, and pushed apart where it is tight."""
    near: dict[Node, dict[int, list[Node]]] = {node: {-1: [], 1: []} for layer in layers for node in layer}
    for way in arrows:
        for upper, lower in pairwise(way):
            near[upper][1].append(lower)
            near[lower][-1].append(upper)
    x = {node: index * (BOX + GAP) for layer in layers for index, node in enumerate(layer)}
    for sweep in range(SWEEPS):
        side = -1 if sweep % 2 == 0 else 1
        for layer in layers if side < 0 else layers[::-1]:
            wanted = {node: _middle([x[other] for other in near[node][side]], x[node]) for node in layer}
            layer.sort(key=lambda node: wanted[node])
            x |= _apart(layer, wanted)
    return x


def _apart(layer: Sequence[Node], wanted: Mapping[Node, float]) -> dict[Node, float]:
    """As near to what is wanted as the order and the room that each needs allow."""
    found: dict[Node, float] = {}
    for index, node in enumerate(layer):
        least = found[layer[index - 1]] + _reach(layer[index - 1]) + GAP + _reach(node) if index else wanted[node]
        found[node] = max(wanted[node], least)
    excess = sum(found[node] - wanted[node] for node in layer) / max(len(layer), 1)
    return {node: value - excess for node, value in found.items()}


def _middle(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _reach(node: Node) -> float:
    return 4.0 if ">" in node[0] else BOX / 2


def _top(layer: int) -> float:
    return MARGIN + layer * PITCH


def _arrow(placed: Layout, way: Sequence[Node]) -> Markup:
    x, y = placed.x[way[0]], _top(way[0][1]) + TALL
    path = f"M{x:.1f} {y:.1f}"
    for node in way[1:]:
        bend = ">" in node[0]
        to_x, to_y = placed.x[node], _top(node[1])
        half = (y + to_y) / 2
        path += f" C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y + (TALL if bend else 0.0)
        path += f" V{y:.1f}" if bend else ""
    return Markup('<path class="arrow" d="{}"/>').format(path)


def _box(x: float, y: float, name: str, state: str, line: str) -> Markup:
    left = x - BOX / 2
    shape = Markup('<rect class="box" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="7"/>').format(left, y, BOX, TALL)
    mark = Markup('<rect class="mark" x="{:.1f}" y="{:.1f}" width="4" height="{}" rx="2"/>').format(
        left + 6, y + 8, TALL - 16
    )
    words = [text(left + 18, y + 18, name, kind="name"), text(left + 18, y + 33, line, kind="state")]
    return Markup('<g class="stage {}">{}{}{}</g>').format(state, shape, mark, Markup("").join(words))
