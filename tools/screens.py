"""The pictures of pages in docs/img, taken anew from a project that has runs.

    python -m tools.screens PROJECT [NAME ...]

PROJECT is a checkout with runs that differ: those of docs/mlflow.md are of `preflow run`, and of three more with
`--set rl.kl_coef=0.3`, `--set rl.kl_coef=0.03` and `--set rl.algorithm=rloo`. NAME chooses pictures by file name.
Look at what comes out before it is committed: pages of MLflow and Prefect change with their versions.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from flows.prefect_api import ask
from tasks.tracking import views
from tests.browser import FLAGS, NO_ASSISTANT, executable, screenshot
from tests.ports import free_ports

PICTURES = Path(__file__).parents[1] / "docs" / "img"
NO_PATHS = """() => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) if (walk.currentNode.data.includes("file:/")) walk.currentNode.data = "";
}"""
"""Where the project lies on the machine that takes the pictures is nobody's business."""
SETTLED = 15_000
"""Milliseconds in which a page draws its charts; nothing on it says when it has."""


@dataclass(frozen=True)
class Site:
    """Where the pages are, and the newest runs of the project."""

    mlflow: str
    prefect: str
    runs: list[dict[str, Any]]
    project: Path

    @property
    def shown(self) -> dict[str, Any]:
        """The first of them: the one whose stages all ran."""
        return self.runs[-1]


@contextmanager
def served(project: Path) -> Iterator[Site]:
    """`preflow ui` over the project."""
    ports = free_ports(2)
    words = ["ui", "--port", str(ports[0]), "--prefect-port", str(ports[1])]
    serving = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert serving.stdout is not None
        found = {}
        for line in serving.stdout:
            print(line, end="", flush=True)
            for name in ("MLflow", "Prefect"):
                if line.removeprefix("preflow: ").startswith(f"{name}: "):
                    found[name] = line.split()[-1].split("/#")[0].removesuffix("/runs")
            if len(found) == 2:
                break
        assert len(found) == 2, "the pages did not come up"
        yield Site(found["MLflow"], found["Prefect"], runs_of(found["MLflow"]), project)
    finally:
        serving.terminate()
        serving.wait(60)


def runs_of(mlflow: str) -> list[dict[str, Any]]:
    """Runs of pipelines, the newest first."""
    body = {"experiment_ids": ["1"], "filter": views.RUNS, "order_by": ["attributes.start_time DESC"], "max_results": 4}
    found = ask(f"{mlflow}/ajax-api/2.0/mlflow/runs/search", body)["runs"]
    runs = []
    for run in found:
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        runs.append({"id": run["info"]["run_id"], "tags": tags})
    return runs


def mlflow_page(route: str) -> Callable[[Page, Site], None]:
    def show(page: Page, site: Site) -> None:
        text = route.replace("RUN", site.shown["id"])
        compared = urllib.parse.urlencode(
            {"runs": json.dumps([run["id"] for run in site.runs]), "experiments": json.dumps(["1"])}
        )
        page.goto(f"{site.mlflow}/{text.replace('COMPARED', compared)}")

    return show


def prefect_run(page: Page, site: Site) -> None:
    """The newest: Prefect's server keeps no others for ever."""
    newest = ask(f"{site.prefect}/api/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    page.goto(f"{site.prefect}/runs/flow-run/{newest[0]['id']}")


def report(page: Page, site: Site) -> None:
    page.goto((site.project / "reports" / site.shown["tags"]["preflow.run"] / "report.html").as_uri())


WIDE, PHONE = (1440, 900), (390, 844)
SCREENS: dict[str, tuple[Callable[[Page, Site], None], tuple[int, int]]] = {
    "mlflow-runs": (mlflow_page(views.link("1")), WIDE),
    "mlflow-charts": (mlflow_page(f"{views.link('1')}&compareRunsMode=CHART"), (1440, 1300)),
    "mlflow-compare": (mlflow_page("#/compare-runs?COMPARED&workflowType=machine_learning"), (1440, 1300)),
    "mlflow-run": (mlflow_page("#/experiments/1/runs/RUN?workflowType=machine_learning"), WIDE),
    "mlflow-samples": (
        mlflow_page("#/experiments/1/runs/RUN/artifacts/samples.json?workflowType=machine_learning"),
        WIDE,
    ),
    "mlflow-model": (mlflow_page("#/models/policy?workflowType=machine_learning"), WIDE),
    "mlflow-card": (mlflow_page("#/models/policy/versions/1?workflowType=machine_learning"), (1440, 1400)),
    "prefect-run": (prefect_run, WIDE),
    "report-desktop": (report, (1280, 900)),
    "report-phone": (report, PHONE),
}


def take(browser: Browser, site: Site, name: str) -> None:
    show, (width, height) = SCREENS[name]
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.add_init_script(NO_ASSISTANT)
    show(page, site)
    page.wait_for_timeout(SETTLED)
    page.evaluate(NO_PATHS)
    screenshot(page, PICTURES / f"{name}.png")
    page.close()
    print(f"{name}: {(PICTURES / f'{name}.png').stat().st_size // 1024} KiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("names", nargs="*", choices=[*SCREENS, []], default=[])
    arguments = parser.parse_args()
    began = time.monotonic()
    with served(arguments.project.resolve()) as site, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=list(FLAGS))
        for name in arguments.names or SCREENS:
            take(browser, site, name)
        browser.close()
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
