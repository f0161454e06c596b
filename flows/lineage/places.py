"""Lines of files as texts name them: `file:line` in pages, verdicts and logs."""

import html
import json
import re
from collections.abc import Iterable

import markupsafe


class Places:
    """Places of rows, to be looked for in bytes whatever wrote them."""

    def __init__(self, places: Iterable[tuple[str, int | None]]) -> None:
        lines: dict[str, set[int]] = {}
        for file, line in places:
            if line is not None:
                lines.setdefault(file, set()).add(line)
        self._lines = [
            (re.compile(re.escape(spelt.encode()) + rb":(\d+)"), numbers)
            for file, numbers in lines.items()
            for spelt in _spellings(file)
        ]

    def are_in(self, content: bytes) -> bool:
        """Whether a text names one of them."""
        return any(int(found) in numbers for name, numbers in self._lines for found in name.findall(content))


def _spellings(file: str) -> set[str]:
    """A name in plain text, in JSON, and on pages, which our two writers of pages escape differently."""
    in_json = {json.dumps(file, ensure_ascii=plain)[1:-1] for plain in (True, False)}
    return {file, *in_json, html.escape(file), str(markupsafe.escape(file))}
