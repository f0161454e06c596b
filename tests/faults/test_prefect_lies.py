"""A Prefect server that is out of order, lies, drips or is slow: stages are kept; a run goes on or says why not."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import dvc
from tests.faults import waiting
from tests.faults.middleman import Middleman
from tests.pools.hosts import prefect

pytestmark = pytest.mark.slow
HTML = b"<!doctype html><title>Please log in</title>"
TEXT = "a row\ncopied\ncopied\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield int(url.rpartition(":")[2].removesuffix("/api"))


@pytest.fixture
def middleman(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Middleman]:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    made = Middleman(port)
    yield made
    made.close()


def out_of_order(middleman: Middleman) -> None:
    middleman.status = lambda _: 500


def lies(middleman: Middleman) -> None:
    middleman.says = lambda _: HTML


def drips(middleman: Middleman) -> None:
    middleman.drips = True


@pytest.mark.faults(
    31,
    injected="what answers for Prefect says 500 or HTML, or drips, when a run begins",
    happens="the run refuses by the address of the server, before its first stage, with 87",
)
@pytest.mark.parametrize("trouble", [out_of_order, lies, drips])
def test_a_run_is_not_begun_with_it(trouble: Callable[[Middleman], None], middleman: Middleman, tmp_path: Path) -> None:
    root = waiting.make(tmp_path / "project")
    trouble(middleman)
    api = f"http://127.0.0.1:{middleman.port}/api"
    code, states, said = waiting.ended(waiting.start(root, api))
    assert (code, states) == (87, {}), said
    assert f"no Prefect server answers at {api}; PREFECT_API_URL names it" in said and "Traceback" not in said


@pytest.mark.faults(
    31,
    injected="Prefect answers with 500 or HTML from the middle of a stage on",
    happens="the stage ends and is kept; the run goes on, or ends with 87 and is typed again, which runs only the rest",
)
@pytest.mark.parametrize("trouble", [out_of_order, lies])
def test_one_that_begins_to_lie_costs_no_stage(
    trouble: Callable[[Middleman], None], middleman: Middleman, tmp_path: Path
) -> None:
    root = waiting.make(tmp_path / "project")
    api = f"http://127.0.0.1:{middleman.port}/api"
    first = waiting.start(root, api)
    waiting.at_work(root, first)
    trouble(middleman)
    waiting.let_go(root)
    code, states, said = waiting.ended(first)
    assert states["first"] == "ran", said
    assert (code, states["second"]) in ((0, "ran"), (87, "failed")), said
    middleman.status, middleman.says = (lambda _: None), (lambda _: None)
    again = waiting.ended(waiting.start(root, api))
    assert again[:2] == (0, {"first": "cached", "second": "cached" if code == 0 else "ran"}), again
    assert len(waiting.began(root)) == 4
    assert (root / "data/second/text").read_text() == TEXT and dvc.status(root) == {}


@pytest.mark.faults(
    31,
    injected="Prefect takes a second for each answer",
    happens="the run goes on, a little later",
)
def test_a_slow_one_is_waited_for(middleman: Middleman, tmp_path: Path) -> None:
    root = waiting.make(tmp_path / "project")
    middleman.before = lambda: threading.Event().wait(1.0) and None  # the fault itself, and no wait for something
    first = waiting.start(root, f"http://127.0.0.1:{middleman.port}/api")
    waiting.at_work(root, first)
    waiting.let_go(root)
    code, states, said = waiting.ended(first)
    assert (code, states) == (0, {"first": "ran", "second": "ran"}), said
