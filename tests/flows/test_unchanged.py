"""A run in which nothing has to run: no Prefect is imported or started for it, and one that is up hears all of it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from flows import champion, closing, launch, profiles, running, unchanged
from flows.request import Wish
from flows.runner import Place
from flows.server import Server
from flows.work import Work
from tasks.graph import load_graph
from tests.flows.test_run import STAGES, ask
from tests.flows.toy import PROGRAM, REPO, Nobody, dvc_repro, states
from tests.web_servers import Quiet, on_a_thread

WITHOUT_PREFECT = (
    PROGRAM.rstrip().removesuffix("main()")
    + """
import sys
try:
    main()
finally:
    assert "prefect" not in sys.modules
"""
)


def run(root: Path, **env: str) -> dict[str, Any]:
    """`preflow run --json` in a process that fails where it has imported Prefect."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PREFECT, "run", "--json"],
        cwd=root,
        env=own | {"PYTHONPATH": str(REPO), "PREFECT_HOME": str(root.parent / "nobody"), **env},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert [(stage["name"], stage["state"]) for stage in report["stages"]] == [(name, "cached") for name in STAGES]
    return report


@pytest.mark.e2e
def test_without_a_server_none_is_started_and_with_one_it_is_told(toy: Path, api: str) -> None:
    dvc_repro(toy)
    assert run(toy)["prefect"] == ""
    assert not (toy / ".preflow" / "server.json").exists()
    report = run(toy, PREFECT_API_URL=api)
    flow_run = report["prefect"].rsplit("/", 1)[1]
    (found,) = ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
    assert (found["name"], found["state"]["type"]) == (report["run"], "COMPLETED")
    assert found["state"]["message"] == f"0 ran, {len(STAGES)} cached"
    (page,) = ask(api, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
    assert page["type"] == "markdown"


class Answers(Quiet):
    """A server that answers as it is told, and with success afterwards."""

    codes: ClassVar[list[int]] = []
    paths: ClassVar[list[str]] = []
    answer: ClassVar[str] = '{"id": "7"}'

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.paths.append(self.path)
        self.send_response(self.codes.pop(0) if self.codes else 201)
        self.end_headers()
        self.wfile.write(self.answer.encode())


@pytest.fixture
def fake() -> Iterator[str]:
    Answers.codes, Answers.paths = [], []
    with on_a_thread(Answers) as url:
        yield url


def work(root: Path, flows: list[str], said: list[str]) -> Work:
    return Work(Place(root, root, "r"), load_graph(root), todo=(), on_flow=flows.append, on_trouble=said.append)


def test_a_busy_server_is_asked_again(toy: Path, fake: str) -> None:
    flows, said = list[str](), list[str]()
    Answers.codes = [503, 201, 503]
    assert {one.state for one in unchanged.execute(work(toy, flows, said), fake).values()} == {"cached"}
    asked = ["/flows/", "/flows/", "/flow_runs/", "/flow_runs/", *["/task_runs/"] * len(STAGES)]
    assert Answers.paths == [*asked, "/flow_runs/7/set_state"]
    assert (flows, said) == (["7"], [])


def test_one_that_knows_us_not_hears_nothing_and_one_that_stops_listening_costs_a_line(toy: Path, fake: str) -> None:
    flows, said = list[str](), list[str]()
    Answers.codes = [401]
    assert unchanged.execute(work(toy, flows, said), fake) is None
    assert (Answers.paths, flows) == (["/flows/"], [])
    Answers.codes = [201, 201, 500]
    assert list(unchanged.execute(work(toy, flows, said), fake) or ()) == STAGES
    assert len(said) == 1 and "may be incomplete" in said[0]


@pytest.mark.parametrize("answer", ["<html>Sign in</html>", "[]", "{}", "null"])
def test_a_server_that_is_none_of_prefects_costs_a_line(
    toy: Path, fake: str, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """As in front of a proxy that wants a password: by Prefect's own client the run would fail."""
    monkeypatch.setattr(Answers, "answer", answer)
    monkeypatch.setitem(sys.modules, "flows.pipeline", SimpleNamespace(execute=lambda _: pytest.fail("by Prefect")))
    flows, said = list[str](), list[str]()
    done = running._execute(work(toy, flows, said), Server(fake), below_a_flow=False)
    assert ({one.state for one in done.values()}, flows) == ({"cached"}, [])
    assert len(said) == 1 and said[0].startswith("Prefect: ")


@pytest.mark.parametrize("told", ["on_flow", "on_result"])
def test_trouble_of_who_is_told_is_no_refusal(toy: Path, fake: str, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """Or the run would begin a second time, by Prefect's flow."""

    def full(_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setitem(sys.modules, "flows.pipeline", SimpleNamespace(execute=lambda _: {}))
    with pytest.raises(OSError, match="No space left"):
        running._execute(replace(work(toy, [], []), **{told: full}), Server(fake), below_a_flow=False)


@pytest.mark.parametrize(("pid", "lines"), [(1, 0), (0, 1)], ids=["of ours", "configured"])
def test_a_server_that_does_not_answer_is_missed_by_nobody(
    toy: Path, monkeypatch: pytest.MonkeyPatch, pid: int, lines: int
) -> None:
    """One of ours was found, and then idle for long enough; one that was configured costs one question and a line."""
    dvc_repro(toy)
    monkeypatch.setattr(profiles, "check", lambda *_: None)
    for module in (launch, running, closing, champion):
        monkeypatch.setattr(module, "tracking", Nobody())
    monkeypatch.setattr(launch.server, "there", lambda _: Server("http://127.0.0.1:9/api", pid=pid, started=0.0))
    asked, said = list[str](), list[str]()
    monkeypatch.setattr(launch.server, "healthy", asked.append)
    report = launch.run(toy, Wish(), threading.Event(), show=lambda *_: None, say=said.append)
    assert (report.exit_code, report.prefect, list(states(report).values())) == (0, "", ["cached"] * len(STAGES))
    assert asked == ["http://127.0.0.1:9/api"]
    assert (
        len([line for line in said if line.startswith("no Prefect server answers at http://127.0.0.1:9/api")]) == lines
    )
