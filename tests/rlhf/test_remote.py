"""A server whose answer never ends, though each byte of it comes in time."""

import threading
from collections.abc import Iterator

import pytest

from rlhf.errors import DependencyDown, PreflowError
from rlhf.remote import Remote
from tests.web_servers import Quiet, on_a_thread

BYTES = 300
PERIOD = 0.01
"""Seconds between two bytes; all of them take ten times as long as an answer may."""


@pytest.fixture
def dripping() -> Iterator[Remote]:
    """Below `/200` an answer, below `/404` a refusal."""
    done = threading.Event()

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.send_header("Content-Length", str(BYTES))
            self.end_headers()
            try:
                for _ in range(BYTES):
                    self.wfile.write(b"x")
                    done.wait(PERIOD)
            except OSError:  # nobody listens any more
                self.close_connection = True

    with on_a_thread(Handler) as url:
        yield Remote(name="judge", url=url, see="url", timeout_seconds=BYTES * PERIOD / 10, attempts=2, pause_seconds=0)
        done.set()


@pytest.mark.faults(
    27,
    injected="a judge or sampler server that sends its answer byte by byte",
    happens="each attempt ends after timeout_seconds, then DependencyDown",
)
def test_an_answer_that_drips_is_no_answer(dripping: Remote) -> None:
    with pytest.raises(DependencyDown, match=r"did not answer in 2 attempts of 0\.3 s each"):
        dripping.ask("200")


def test_a_refusal_that_drips_is_not_waited_for(dripping: Remote) -> None:
    with pytest.raises(PreflowError, match="refused with HTTP 404; see its url"):
        dripping.ask("404")
