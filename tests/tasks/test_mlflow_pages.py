"""MLflow's own pages in a browser, over a small store that `tasks.tracking` has filled: does a reader find things?"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.outcome import StageResult
from tasks.tracking import views
from tests.browser import NO_ASSISTANT, chromium, executable, page  # noqa: F401
from tests.ports import free_ports

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

pytestmark = pytest.mark.browser
PATIENCE = 240  # seconds; an idle machine needs 10
TRAINING = "workflowType=machine_learning"


@dataclass(frozen=True)
class Site:
    """MLflow over a run, its cached repetition, and a version made of each result."""

    url: str
    first: dict[str, Any]
    second: dict[str, Any]

    def run(self, run: str, tab: str = "") -> str:
        """Address of a run's page."""
        return f"{self.url}/#/experiments/1/runs/{run}{tab}?{TRAINING}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Site]:
    pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install -e '.[browser]'")
    if executable() is None:
        pytest.skip("no Chromium here")
    root = toy.write_tree(tmp_path_factory.mktemp("pages"))
    (root / "mlruns").mkdir()
    (root / "mlruns/mlflow.db").write_bytes(empty_store.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME", "PREFLOW_RUN"):
            patch.delenv(name, raising=False)
        first, second = record(root, "r1", "defaults r1", 0.5), record(root, "r2", "rl.kl_coef=0.3 r2", None)
    with served(root) as url:
        yield Site(url, first, second)


def record(root: Path, run: str, name: str, gold: float | None) -> dict[str, Any]:
    """A run of the toy pipeline that is promoted; without `gold` one whose stages were all cached."""
    tracking.begin_run(root, run, {"name": name, "ref": f"refs/preflow/{run}", "command": "preflow run"})
    if gold is not None:
        toy.run_all(root, run, gold)
    state = "cached" if gold is None else "ran"
    results = {stage: StageResult(stage, state, 1.5) for stage in toy.STAGES}  # type: ignore[arg-type]
    ids = tracking.finish_run(root, run, results, "FINISHED")
    tracking.promote(root, run, "rl")
    return ids


class served:
    """`mlflow ui` as the Makefile starts it, on a free port of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> str:
        (port,) = free_ports(1)
        store = ["--backend-store-uri", "sqlite:///mlruns/mlflow.db", "--default-artifact-root", "mlruns/artifacts"]
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self.log = (self.root / "ui.log").open("w")
        self.process = subprocess.Popen(
            [*command, *store],
            cwd=self.root,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while not self._answers(url):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.__exit__()
                raise AssertionError(f"mlflow ui did not answer: {(self.root / 'ui.log').read_text()}")
            time.sleep(0.25)
        return url

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, 15)
        self.process.wait()
        self.log.close()

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def look(page: Any) -> Iterator[Any]:  # noqa: F811
    """The page; nothing that we put there may be missing or make it complain."""
    page.set_default_timeout(60_000)
    page.add_init_script(NO_ASSISTANT)
    missing: list[str] = []
    page.on("response", lambda got: missing.append(got.url) if got.status >= 400 else None)
    yield page
    # MLflow asks whether a version has an `MLmodel` to show a signature of; weights that DVC keeps have none.
    missing = [url for url in missing if "path=MLmodel&" not in url]
    ours = [url for url in missing if "artifact" in url or "/runs/" in url or "model-versions" in url]
    assert ours == []
    # Chromium's remark on MLflow's own layout, where a machine is too slow to draw it at once.
    quiet = ("Failed to load resource", "null ResizeObserver loop")
    assert [said for said in page.complaints if not said.startswith(quiet)] == []


def shows(page: Any, *texts: str) -> None:  # noqa: F811
    for text in texts:
        page.get_by_text(text).first.wait_for()


def section(page: Any, name: str, count: int) -> None:  # noqa: F811
    """A section of that many charts; MLflow has the number in an element of its own."""
    told = re.compile(rf"^\s*{re.escape(name)}\s*\({count}\)\s*$")
    page.locator("div", has_text=told).first.wait_for()


def visit(page: Any, url: str) -> None:  # noqa: F811
    """Anew: between two addresses that differ behind the `#` only, MLflow keeps what it showed of the first."""
    page.goto("about:blank")
    page.goto(url)


def opened(page: Any, link: Any) -> Any:  # noqa: F811
    """The new page of a link in a description: MLflow opens those in a tab of their own."""
    with page.expect_popup() as tab:
        link.click()
    return tab.value


def leads_to(page: Any, part: str) -> None:  # noqa: F811
    """MLflow's routes are behind the `#` of one page: following a link loads nothing that could be waited for."""
    page.wait_for_function("part => location.hash.includes(part)", arg=part)


def test_the_prepared_view_lists_runs_by_what_was_set_and_what_came_of_it(site: Site, look: Any) -> None:
    visit(look, f"{site.url}/{views.link('1')}")
    shows(look, "defaults r1", "rl.kl_coef=0.3 r2", "gold_gain", "promoted", "0.2")
    assert look.get_by_text("matching runs").first.inner_text().split()[0] == "2"  # not their stages
    visit(look, f"{site.url}/{views.link('1')}&compareRunsMode=CHART")
    section(look, "At a glance", 4)
    shows(look, "kl/rl vs. gold_reward/rl", "seconds")


def test_a_run_page_tells_the_story_and_leads_to_stages_data_and_models(site: Site, look: Any) -> None:
    visit(look, site.run(site.first["run"]))
    shows(look, "defaults r1", "Fit to be promoted", "data/01_raw/eval", "policy v1", "refs/preflow/r1")
    for stage in toy.STAGES:
        look.get_by_role("link", name=re.compile(f"^{stage}$")).first.wait_for()
    stage = opened(look, look.get_by_role("link", name="rl", exact=True).first)
    leads_to(stage, f"/runs/{site.first['stages']['rl']}")
    shows(stage, "Policy gradients", "python -m tasks.rl")


def test_metrics_fall_into_sections_with_the_plots_among_them(site: Site, look: Any) -> None:
    visit(look, site.run(site.first["run"], "/model-metrics"))
    shows(look, "Model metrics")
    for name in ("gate", "gold_reward", "kl"):
        section(look, name, 2)
    look.get_by_text(re.compile(r"^plots")).first.scroll_into_view_if_needed()
    shows(look, "evaluate policies")


def test_the_sample_table_is_a_table(site: Site, look: Any) -> None:
    visit(look, site.run(site.first["run"], "/artifacts/samples.json"))
    shows(look, "prompt", "policy", "completion", "gold_reward", "blue, says rl")
    visit(look, site.run(site.first["run"], "/artifacts/plots/policies.png"))
    look.locator("img[src^='blob:'], img[src*='policies']").first.wait_for()


def test_a_cached_stage_shows_what_made_it(site: Site, look: Any) -> None:
    visit(look, site.run(site.second["stages"]["rl"]))
    shows(look, "rl (cached)", "Not run:", "data/01_raw/eval")
    link = look.get_by_role("link", name=re.compile("^run ")).first
    leads_to(opened(look, link), f"/runs/{site.first['stages']['rl']}")
    visit(look, site.run(site.second["stages"]["rl"], "/model-metrics"))
    section(look, "rl", 1)


def test_the_model_page_names_the_champion_and_its_card(site: Site, look: Any) -> None:
    visit(look, f"{site.url}/#/models/policy?{TRAINING}")
    shows(look, "Version 1", "champion", "preflow reproduce policy@champion")
    look.get_by_role("link", name="Version 1").first.click()
    shows(look, "How well it does", "Gate, against sft", "gain_over_sft", "preflow reproduce policy/1", "Methods")
    look.get_by_role("link", name="rl", exact=True).first.click()
    leads_to(look, site.first["stages"]["rl"])
