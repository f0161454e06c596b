"""What benches write into pages: tables between markers of their own."""

from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Markdown; the first `texts` columns are words, the others figures."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, *rows]]
    return [lines[0], "|---" * texts + "|--:" * (len(header) - texts) + "|", *lines[1:]]


def write_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put the lines between `<!-- NAME: … -->` and `<!-- /NAME -->`. Raises ValueError where these are not there."""
    text = page.read_text("utf-8")
    start = text.index("-->", text.index(f"<!-- {name}:")) + len("-->")
    end = text.index(f"<!-- /{name} -->")
    page.write_text("\n".join([text[:start], "", *lines, "", text[end:]]), encoding="utf-8")
