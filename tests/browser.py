"""A headless Chromium for tests of pages: the system's own, so that nothing is downloaded.

Tests take the fixture `page`; those of one module share a browser. Import it by name:
`from tests.browser import chromium, page  # noqa: F401`. What a page complains of is in `page.complaints`.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# No sandbox: in containers its namespaces are forbidden, and only our own pages are opened here.
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking")
# MLflow's assistant opens over the page on a first visit; about:blank has no storage to say so in.
NO_ASSISTANT = (
    "if (location.protocol === 'http:') localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
)
DESKTOP = {"width": 1440, "height": 900}


def executable() -> str | None:
    """Path of the system's Chromium: `CHROMIUM`, else the first of the usual names; None where there is none."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser of playwright; the test is skipped where playwright or Chromium is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install -e '.[browser]'")
    program = executable()
    if program is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(NAMES)}): install it, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A fresh page of desktop width, without network beyond this machine.

    `page.complaints` collects console errors, uncaught exceptions and whatever it wanted from other hosts.
    """
    context = chromium.new_context(viewport=DESKTOP, reduced_motion="reduce")
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    context.route("**/*", lambda route: _keep_here(page, route))
    yield page
    context.close()


def screenshot(page: Any, path: Path, full: bool = False, colours: int = 128) -> None:
    """A PNG with a palette: a quarter of the size, and no difference that a reader sees."""
    from PIL import Image

    page.screenshot(path=str(path), full_page=full)
    Image.open(path).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def _keep_here(page: Any, route: Any) -> None:
    url = str(route.request.url)
    if url.startswith(("http://127.0.0.1", "http://localhost", "file:", "data:", "blob:", "about:")):
        route.continue_()
        return
    page.complaints.append(f"asked another host: {url}")
    route.abort()
