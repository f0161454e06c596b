"""The page of a run in a real browser, wide and narrow."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.page.render import as_html
from tests.flows.page_run import HOSTILE, make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs `pip install -e .[browser]`")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(chromium: Any, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(as_html(make_run(tmp_path / "tree")), encoding="utf-8")
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    try:
        page = context.new_page()
        trouble: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())

        assert page.locator("h1").inner_text() == "Promoted dpo as policy v3: +0.240 gold over sft"
        titles = page.locator("h2").all_inner_texts()
        assert titles[:3] == ["Story", "Gate", "Evaluation"] and titles[-1] == "Reproduce"
        assert page.locator("table").count() >= 6
        assert page.locator("svg.graph .stage").count() == 13
        boxes = [one.bounding_box() for one in page.locator("svg.chart:visible").all()]
        assert len(boxes) >= 6 and all(box["width"] > 150 and box["height"] > 100 for box in boxes)
        page.locator("#samples summary").nth(2).click()
        assert page.locator("#samples details").nth(2).get_by_text(f"rl: {HOSTILE}").is_visible()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("nav").is_visible() == (width == 1280)
        assert trouble == []
        assert asked == [path.as_uri()]
    finally:
        context.close()
