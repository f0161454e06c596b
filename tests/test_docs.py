"""What the documents promise exists: links, make targets, exit codes."""

import re
from pathlib import Path

import pytest

from rlhf import errors

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`(make [^`\n]+)`", text)
    code = "\n".join([*blocks, *inline])
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= known


def test_every_exit_code_has_its_line() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    defined = {thing.exit_code for thing in vars(errors).values() if isinstance(thing, type)}
    assert defined <= codes
