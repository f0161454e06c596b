"""The graph that a question of lineage is answered with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flows.lineage.facts import Facts


@dataclass(frozen=True)
class Node:
    """One thing that was read or made."""

    id: str
    kind: str
    """ "source", "rows", "data", "model", "run" or "version"."""
    label: str
    stage: str = ""
    """That wrote it."""
    word: str = ""
    """What became of the rows that were asked for (`flows.lineage.touch`); "champion" of a version."""
    note: str = ""
    runs: tuple[str, ...] = ()


@dataclass
class Lineage:
    """The answer to one question."""

    subject: str
    start: str
    """Id of the node that was asked for."""
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    """(made from, made)."""
    facts: Facts | None = None
    """Of rows: what became of them, told in order."""

    def add(self, node: Node) -> str:
        """A node, or one more run of a node that is there."""
        before = self.nodes.get(node.id)
        runs = tuple(dict.fromkeys([*(before.runs if before else ()), *node.runs]))
        self.nodes[node.id] = replace(before or node, runs=runs)
        return node.id

    def link(self, source: str, target: str) -> None:
        if (source, target) not in self.edges and source != target:
            self.edges.append((source, target))

    def next(self, node: str, down: bool) -> list[str]:
        """What was made from a node, or what it was made from."""
        return [pair[1] if down else pair[0] for pair in self.edges if pair[0 if down else 1] == node]

    def reached(self, down: bool) -> set[str]:
        """Everything on one side of what was asked for, itself included."""
        found, waiting = {self.start}, [self.start]
        while waiting:
            fresh = set(self.next(waiting.pop(), down)) - found
            found |= fresh
            waiting += fresh
        return found

    def kept(self, up: bool, down: bool) -> "Lineage":
        """The part above, below or both."""
        nodes = (self.reached(False) if up else set()) | (self.reached(True) if down else set())
        edges = [pair for pair in self.edges if set(pair) <= nodes]
        return replace(self, nodes={key: node for key, node in self.nodes.items() if key in nodes}, edges=edges)


def told(found: Lineage) -> dict[str, Any]:
    """For programs."""
    facts: Mapping[str, Any] = found.facts.told() if found.facts else {}
    return {
        "subject": found.subject,
        "start": found.start,
        **facts,
        "nodes": [node.__dict__ | {"runs": list(node.runs)} for node in found.nodes.values()],
        "edges": [{"from": source, "to": target} for source, target in found.edges],
    }
