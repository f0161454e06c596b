"""The page of a run: nothing is fetched, nothing that a completion says is taken for markup, every shipped graph."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.page import graph as page_graph
from flows.page import page, render, story
from flows.page.facts import Facts
from flows.page.svg import ticks
from rlhf.errors import DataRefused, PreflowError
from tasks.graph import load_graph
from tests.flows.conftest import Runs
from tests.flows.page_run import HOSTILE, REPO, RUN, make_run
from tests.flows.toy import git

GRAPHS = [REPO, *sorted(path.parent for path in REPO.glob("profiles/*/dvc.yaml"))]


class Parsed(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def sections(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.tags if tag == "section"]


def parsed(facts: Facts) -> Parsed:
    found = Parsed(render.as_html(facts))
    assert found.open == []
    return found


@pytest.mark.parametrize("shipped", GRAPHS, ids=lambda path: path.name)
def test_every_shipped_graph_has_a_page(shipped: Path, tmp_path: Path) -> None:
    facts = make_run(tmp_path, shipped)
    found = parsed(facts)
    assert set(facts.graph.stages) <= {word.strip() for word in found.words}
    assert {"story", "gate", "evaluation", "samples", "data", "lineage", "cost", "again"} <= set(found.sections)
    assert ("trust" in found.sections) == any("tasks.reward_model " in one.cmd for one in facts.graph.stages.values())
    assert facts.missing == []


@pytest.mark.parametrize("shipped", GRAPHS, ids=lambda path: path.name)
def test_nothing_is_fetched(shipped: Path, tmp_path: Path) -> None:
    text = render.as_html(make_run(tmp_path, shipped))
    found = Parsed(text)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "img", "object", "base", "form"}
    links = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("href", "src")]
    assert all(link and re.fullmatch(r"#\w+|validation/(\w+/)?report\.html", link) for link in links)
    assert not re.search(r"https?:|@import|url\(", text)


def test_what_a_policy_says_stays_text(tmp_path: Path) -> None:
    found = parsed(make_run(tmp_path))
    assert f"rl: {HOSTILE}" in found.text
    assert {name for _, attributes in found.tags for name in attributes if name.startswith("on")} == set()
    short = render.as_markdown(make_run(tmp_path))
    assert "<" not in short.replace("<sub>", "")


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    facts = make_run(tmp_path)
    secret = "AKIA" + "B" * 16
    facts = replace(facts, about=replace(facts.about, command=f"preflow run --set x={secret}"))
    assert secret not in render.as_html(facts) + render.as_markdown(facts)


@pytest.mark.parametrize("lost", ["scores.json", "curves.json", "gate.json", "metrics.json", "completions", "report"])
def test_what_is_not_there_is_left_out(lost: str, tmp_path: Path) -> None:
    facts = make_run(tmp_path, omit=[lost])
    found = parsed(facts)
    gone = {"scores.json": "evaluation", "gate.json": "gate", "metrics.json": "trust", "completions": "samples"}
    gone["report"] = "data"
    assert gone.get(lost) not in found.sections
    assert ("Not in this clone's DVC cache" in found.text) == lost.endswith(".json")
    torn = tmp_path / "data" / "12_evaluation" / "scores.json"
    torn.write_text('{"judge": "go')
    assert "evaluation" not in parsed(replace(facts)).sections  # a copy, which reads anew


FAILED: Mapping[str, str] = {"rl": "failed", "evaluate": "skipped", "gate": "skipped"}


def test_outputs_of_an_earlier_run_are_not_told_as_this_ones(tmp_path: Path) -> None:
    """A failed run leaves in data/ what the last good one made there."""
    facts = make_run(tmp_path, states=FAILED)
    found = parsed(facts)
    assert (tmp_path / "data/13_gate/gate.json").exists()
    assert not {"gate", "evaluation", "samples"} & set(found.sections)
    assert story.headline(facts) == story.Headline("rl failed", "rl lost", "bad")


def test_a_refusal_is_told_from_what_the_gate_left_behind(tmp_path: Path) -> None:
    facts = make_run(tmp_path, states={"validate": "failed", "base": "skipped"})
    validate = next(one for one in facts.about.report.stages if one["name"] == "validate")
    validate["exit_code"] = DataRefused.exit_code
    left = facts.about.reports / "validation"
    left.mkdir(parents=True)
    finding = {"file": "preferences/new.jsonl", "line": 2, "rule": "secret", "reason": "it holds a key"}
    kind = {"rows": 2, "clean": 1, "set_aside": 1, "splits": {}, "stopped": [finding], "rules": []}
    (left / "verdict.json").write_text(json.dumps({"passed": False, "stopped": 1, "kinds": {"preferences": kind}}))
    (left / "report.html").write_text("<!doctype html>")
    found = parsed(facts)
    assert "preferences/new.jsonl:2" in found.text and "it holds a key" in found.text
    assert story.headline(facts).says.startswith("The data was refused")
    assert ("a", {"href": "validation/report.html"}) in found.tags


def test_headlines(tmp_path: Path) -> None:
    facts = make_run(tmp_path)
    assert story.headline(facts).says == "Promoted dpo as policy v3: +0.240 gold over sft"
    report = facts.about.report
    report.promotion = {"promoted": True, "name": "policy", "version": 3, "reason": "policy v3 is already the champion"}
    assert story.headline(facts).says.startswith("policy v3 stays champion")
    report.promotion = {"promoted": False, "reason": "not promoted: a run with --set is promoted only with --promote"}
    told = story.headline(facts)
    assert told.says.startswith("dpo passed the gate") and "--promote" in told.more
    report.exit_code = 85
    assert story.headline(facts).says == "Stopped before it was done"


@pytest.mark.parametrize(
    ("came", "says"),
    [
        ("not promoted: {}", "{}"),
        ("{}; waits for `preflow promote r`", "{}; waits for `preflow promote r`"),
        ("promoted policy v3", "{}. Promoted policy v3"),
        ("", "{}"),
    ],
)
def test_the_gate_says_its_sentence_once(tmp_path: Path, came: str, says: str) -> None:
    facts = make_run(tmp_path)
    assert facts.gate is not None
    reason = facts.gate["reason"]
    facts.about.report.promotion = {"reason": came.format(reason)}
    assert story.gate_says(facts) == says.format(reason)
    assert f"{says.format(reason)}." in parsed(facts).text


def test_arrows_that_others_imply_are_left_out() -> None:
    above = page_graph.reduced(load_graph(REPO))
    assert above["rl"] == ("rejection_sampling",)
    assert set(above["evaluate"]) == {"dpo", "rl"}
    assert above["gate"] == ("evaluate",)


@pytest.mark.parametrize("shipped", GRAPHS, ids=lambda path: path.name)
def test_in_the_picture_what_reads_stands_below_and_nothing_overlaps(shipped: Path, tmp_path: Path) -> None:
    graph = make_run(tmp_path, shipped).graph
    placed = page_graph.layout(graph)
    depth = {name: layer for name, layer in placed.x if name in graph.stages}
    assert set(depth) == set(graph.stages)
    assert all(depth[other] < depth[name] for name in depth for other in graph.upstream[name])
    for layer in placed.layers:
        middles = sorted(placed.x[node] for node in layer if node[0] in graph.stages)
        assert all(right - left >= page_graph.BOX for left, right in pairwise(middles))
    assert all(0 <= x <= placed.width for x in placed.x.values())


def test_ticks_are_round() -> None:
    assert ticks(0.0, 1.0, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-0.37, 0.8, 4) == [0.0, 0.5]
    assert ticks(3.0, 97.0, 4) == [25.0, 50.0, 75.0]


def test_a_page_is_light_to_make() -> None:
    program = "import sys, flows.page.page; print(*sorted({'torch', 'mlflow', 'prefect', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_run_no_page(toy: Path) -> None:
    with pytest.raises(PreflowError, match="no run is kept in this clone yet"):
        page.find(toy, "")
    for ref in (RUN, "compare-20261129-120000-cd34"):  # what a comparison's cells begin with is no run
        git(toy, "update-ref", f"refs/preflow/runs/{ref}", "HEAD")
    name, path, made = page.find(toy, "")  # what it ran is in no cache: the graph, and how to get the rest
    assert (name, made) == (RUN, True)
    assert page.find(toy, RUN) == (RUN, path, False)
    found = Parsed(path.read_text())
    assert "nothing kept" in found.text and f"preflow reproduce {RUN}" in found.text


def test_the_last_run_is_one_that_has_ended(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    ended = toy / "reports" / RUN
    ended.mkdir(parents=True)
    (ended / "run.json").write_text(json.dumps({"report": {"run": RUN}}))
    for ref in (RUN, "20261129-120000-cd34"):  # the newer one goes on, or was killed
        git(toy, "update-ref", f"refs/preflow/runs/{ref}", "HEAD")
    done = CliRunner().invoke(app, ["report", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["run"] == RUN


def test_a_run_ends_with_its_page_also_where_it_fails(toy: Path, run: Runs) -> None:
    from prefect.client.orchestration import get_client

    good = run(toy)
    failed = run(toy, settings=("rl.mode=die",))
    for report, says in ((good, "All 5 stages are done"), (failed, "rl failed")):
        assert Path(report.page) == toy / "reports" / report.run / "report.html"
        found = Parsed(Path(report.page).read_text())
        assert says in found.text and found.open == []
        assert page.find(toy, report.run) == (report.run, Path(report.page), False)
    with get_client(sync_client=True) as client:
        shown = [one for one in client.read_artifacts(limit=20) if one.type == "markdown"]
    by_flow = {str(one.flow_run_id): one.data for one in shown}
    for report, says in ((good, "# All 5 stages are done"), (failed, "# rl failed")):
        assert by_flow[report.prefect.rsplit("/", 1)[1]].startswith(says)

    Path(good.page).unlink()  # made again from the ref and what the flow wrote beside the page
    _, path, made = page.find(toy, good.run)
    assert made and "5 ran" in Parsed(path.read_text()).text
