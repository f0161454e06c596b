"""What the documents promise exists: links, make targets, exit codes; and GitHub shows their formulas."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rlhf import errors

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_anchors_are_headings(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    found = [
        (target, anchor) for target, anchor in links if anchor not in anchors(page.parent / target if target else page)
    ]
    assert found == []


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, hyphens for blanks; letters, digits, hyphens and underscores stay."""
    if page.suffix != ".md":
        return set()
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# What `x` is, and [why](there.md)\n```\n# no heading\n```\n## Two  words_\n")
    assert anchors(tmp_path / "page.md") == {"what-x-is-and-why", "two--words_"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`(make [^`\n]+)`", text)
    code = "\n".join([*blocks, *inline])
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= known


def formulas(text: str) -> tuple[list[str], list[str]]:
    """Inline and displayed formulas, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    displayed = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    return re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)), displayed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_formulas_survive_github(page: Path) -> None:
    r"""Markdown eats the backslash of `\,`, `\|`, `\{` in a formula, ends a cell at `|`, and knows no link in one."""
    text = page.read_text(encoding="utf-8")
    inline, displayed = formulas(text)
    assert [one for one in inline if re.search(r"\\[^A-Za-z\s]", one)] == []
    assert [one for one in [*inline, *displayed] if "](" in one] == []
    rows = [re.sub(r"`[^`]*`|\$[A-Z]{2}\w*", "", line) for line in text.splitlines() if line.startswith("|")]
    cells = [cell for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if cell.count("$") % 2] == []


@pytest.mark.parametrize(
    ("line", "inline", "displayed"),
    [
        ("`$x` and $a + b$, $c$", ["a + b", "c"], []),
        ("$$\nx \\, y\n$$ of $z$", ["z"], ["\nx \\, y\n"]),
        ("```bash\necho $A $B\n```", [], []),
    ],
)
def test_formulas_are_found(line: str, inline: list[str], displayed: list[str]) -> None:
    assert formulas(line) == (inline, displayed)


def test_no_error_is_listed_twice() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    messages = Counter(re.findall(r"^\| (?!message \|)(.*?) \|", page, re.MULTILINE))
    assert [message for message, count in messages.items() if count > 1] == []


def test_every_exit_code_has_its_line() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    defined = {thing.exit_code for thing in vars(errors).values() if isinstance(thing, type)}
    assert defined <= codes
