"""Lineage in a terminal: what became of rows told in order, then trees of what lies above and below."""

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree as Branches

from flows.lineage.facts import Facts
from flows.lineage.nodes import Lineage, Node
from flows.lineage.runs import names_of
from flows.lineage.touch import BUILT, CHOSEN, READ, TRAINED

COLOURS = {
    TRAINED: "red",
    BUILT: "yellow",
    CHOSEN: "magenta",
    READ: "green",
    "holds": "cyan",
    "made with": "yellow",
    "champion": "bold green",
}
_WIDE = 160
"""Columns where nobody says how wide the terminal is."""


def show(found: Lineage, up: bool, down: bool) -> None:
    """Print it on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE, no_color=True)
    if found.facts:
        for line in told_in_lines(found.facts):
            console.print(line, soft_wrap=True)
    for direction, heading in ((False, "made from"), (True, "and what was made of it")):
        if (down if direction else up) and found.next(found.start, direction):
            console.print()
            console.print(_tree(found, direction, heading))


def told_in_lines(facts: Facts) -> list[str]:
    """One line a fact: rows, data versions with verdicts, preferences, models, registered versions."""
    lines = [_about(facts)]
    for verdict in facts.verdicts:
        lines.append(f"  data {verdict.version or '(none)'}  {verdict.says}; {_in_runs(verdict.runs)}")
        lines += [
            f"    {one.get('id')}  {one.get('rule')}: {escape(str(one.get('reason')))}" for one in verdict.findings[:5]
        ]
    lines += [f"  preferences  {phrase}; {_in_runs(runs)}" for phrase, runs in facts.annotated()]
    models = facts.models()
    width = max((len(one.item.path) for one, _ in models), default=0)
    for one, runs in models:
        word = f"[{COLOURS[one.word]}]{one.word}[/]"
        lines.append(f"  {one.item.path:{width}}  {word} ({escape(one.because)}); {_in_runs(runs)}")
    for version, one in facts.versions:
        champion = " (champion)" if version.is_champion else ""
        word = f"[{COLOURS[one.word]}]{one.word}[/]"
        what = "it" if len(facts.rows) == 1 else "them"
        lines.append(f"  registry  {version.label}{champion}: {one.item.path}, {word} {what}; run {version.run}")
    if not models:
        lines.append(f"  no model was made of {'it' if len(facts.rows) == 1 else 'them'}")
    elif not facts.versions:
        lines.append("  registry  no version has them")
    if facts.unread:
        lines.append(f"  not in the DVC cache, so there may be more: {', '.join(facts.unread[:3])}")
    return lines


def _about(facts: Facts) -> str:
    if len(facts.rows) != 1:
        return f"[bold]{escape(facts.wanted.text)}[/]  {len(facts.rows)} rows, over all runs that are kept here"
    row = next(iter(facts.rows.values()))
    about = [f"{key} {row[key]}" for key in ("source", "split", "group", "origin") if row.get(key)]
    return f"[bold]{escape(facts.wanted.text)}[/]  {escape(facts.title)}; {escape(', '.join(about))}"


def _in_runs(runs: list[str]) -> str:
    return f"run{'s' * (len(runs) > 1)} {names_of(runs)}"


def _tree(found: Lineage, down: bool, heading: str) -> Branches:
    """Depth first; what has been shown with its branches is named again without them."""
    seen: set[str] = set()

    def grow(branch: Branches, key: str) -> None:
        for other in found.next(key, down):
            again = other in seen and bool(found.next(other, down))
            inner = branch.add(_label(found.nodes[other]) + (" [dim]… as above[/]" if again else ""))
            if other not in seen:
                seen.add(other)
                grow(inner, other)

    start = found.nodes[found.start]
    tree = Branches(f"{_label(start)}  [dim]{heading}[/]")
    grow(tree, found.start)
    return tree


def _label(node: Node) -> str:
    words = f" [{COLOURS.get(node.word, 'default')}]{node.word}[/]" if node.word else ""
    md5 = f" [dim]{node.id.rsplit(' ', 1)[1][:8]}[/]" if node.kind in ("data", "model") and " " in node.id else ""
    note = f" [dim]({escape(node.note)})[/]" if node.note and node.kind != "source" else ""
    name = f"[bold]{escape(node.label)}[/]" if node.kind in ("model", "version", "run", "rows") else escape(node.label)
    return f"{'source ' if node.kind == 'source' else ''}{name}{md5}{words}{note}"
