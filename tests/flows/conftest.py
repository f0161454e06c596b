"""What the tests of the flows share."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import champion, closing, launch, profiles, running, server
from flows.request import Report, Wish
from tasks.outcome import StageResult
from tests.flows import verify_story
from tests.flows.toy import PROGRAM, REPO, Nobody, gone, make_toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh project with one commit, nothing run yet."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = tmp_path / "project"
    return make_toy(root)


@pytest.fixture(scope="session")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story that `preflow verify` is tried on, as it was made; only to be copied."""
    return verify_story.make(tmp_path_factory.mktemp("verified"))


@pytest.fixture
def story(verified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    return verify_story.copy_of(verified, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server as the product starts it, for a project that only holds it."""
    root = tmp_path_factory.mktemp("server")
    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    with ThreadPoolExecutor(2) as both:  # two starts at once are one
        here, same = both.map(server.start, [root, root])
    server.wait(here, root, threading.Event())
    assert here == same == server.start(root)
    assert os.getsid(here.pid) == here.pid  # so that it outlives whoever started it
    children = psutil.Process(here.pid).children(recursive=True)
    os.environ.clear()
    os.environ.update(before)
    yield here.url
    assert server.stop(root) in (here, None)  # None: half an hour without a request ends it
    assert all(gone(pid) for pid in [here.pid, *(child.pid for child in children)])


Runs = Callable[..., Report]


@pytest.fixture
def run(api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """`preflow run` in this process: `run(root, settings=("seed=1",))` gives its report."""
    monkeypatch.setenv("PREFECT_API_URL", api)
    # The toy's params.yaml is not the product's.
    monkeypatch.setattr(profiles, "check", lambda *_: None)
    for module in (launch, running, closing, champion):
        monkeypatch.setattr(module, "tracking", Nobody())
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def call(
        root: Path,
        cancel: threading.Event | None = None,
        on_result: Callable[[StageResult, Path], None] = lambda *_: None,
        **wish: Any,
    ) -> Report:
        stop = cancel or threading.Event()
        return launch.run(root, Wish(**wish), stop, show=lambda *_: None, say=print, on_result=on_result)

    with temporary_settings({PREFECT_API_URL: api}):
        yield call


@pytest.fixture
def program(api: str) -> Callable[..., subprocess.Popen[str]]:
    """Start `preflow ARGUMENTS` in a folder."""

    def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(REPO), "PREFECT_API_URL": api, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start
