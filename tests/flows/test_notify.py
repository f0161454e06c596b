"""What a webhook hears; with a receiver of a few lines on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import pytest

from flows import notify


@contextmanager
def receiver(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and what it was told."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret", heard
        finally:
            server.shutdown()
            thread.join()


def test_news_arrive_and_trouble_is_said_without_the_url() -> None:
    said = list[str]()
    with receiver() as (url, heard):
        assert notify.tell(url, {"state": "Promoted"}, said.append)
    assert (heard, said) == ([{"state": "Promoted"}], [])
    assert not notify.tell(url, {"state": "Promoted"}, said.append)  # nobody listens any more
    with receiver(500) as (url, _):
        assert not notify.tell(url, {"state": "Promoted"}, said.append)
    assert not notify.tell("no url", {"state": "Promoted"}, said.append)
    assert not notify.tell(url.replace("/secret", "/secret hook"), {"state": "Promoted"}, said.append)
    assert len(said) == 4
    assert not any("secret" in line for line in said)


@pytest.mark.parametrize(("state", "told"), [("Promoted", True), ("Crashed", True), ("NothingNew", False)])
def test_what_happened_is_told_and_that_nothing_did_is_not(state: str, told: bool) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Completed

    from flows.retrain import flow

    hooks = (flow.retrain.on_completion_hooks, flow.retrain.on_failure_hooks)
    assert all(flow._tell in (found or []) for found in (*hooks, flow.retrain.on_crashed_hooks))
    with receiver() as (url, heard):
        firing = FlowRun(id=uuid4(), flow_id=uuid4(), name="nightly 03:00", parameters={"notify": url})
        flow._tell(None, firing, Completed(name=state, message="because"))
    expected = {"firing": "nightly 03:00", "state": state, "message": "because", "flow_run": str(firing.id)}
    assert heard == ([expected] if told else [])
