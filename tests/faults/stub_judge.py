"""A judge on a thread of the test, which answers by a rule until it is told to misbehave."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from tests.web_servers import Quiet, on_a_thread

Fault = Literal["", "503", "drop", "hang", "garbage"]


@dataclass
class Judge:
    """What it does with the requests that are still to come, and what it was asked."""

    url: str = ""
    faults: Callable[[int], Fault] = lambda number: ""
    """What goes wrong with a request, by its number from 1."""
    asked: Counter[str] = field(default_factory=Counter)
    """Questions by how often they were answered."""
    requests: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: what hangs then ends."""


@contextmanager
def judge() -> Iterator[Judge]:
    """One that is up, and gone afterwards."""
    found = Judge()

    class Handler(Quiet):
        def do_POST(self) -> None:
            question = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.requests += 1
            fault = found.faults(found.requests)
            if fault == "hang":
                found.done.wait()
            if fault in ("hang", "drop"):
                self.close_connection = True
                return
            if fault == "":
                found.asked[question] += 1
            self._answer(503 if fault == "503" else 200, "<html>" if fault == "garbage" else reply_to(question))

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    with on_a_thread(Handler) as url:
        found.url = f"{url}/v1"
        try:
            yield found
        finally:
            found.done.set()


def reply_to(question: str) -> str:
    """It likes the longer answer, and says so on its last line."""
    text = json.loads(question)["messages"][-1]["content"]
    a, b = (text.split(f"<answer {name}>\n")[1].split("\n</answer")[0] for name in "AB")
    verdict = "[[A]]" if (len(a), a) > (len(b), b) else "[[B]]"
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": f"I have read both.\n{verdict}"}}]})
