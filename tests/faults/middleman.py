"""A middleman before a real server, MLflow's or Prefect's: what comes through is as the test wants it."""

import http.client
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Middleman:
    """Passes requests on to a server of this machine. `port` is where it listens, dead or alive."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.before: Callable[[], None] = lambda: None
        """Called before a request is answered, in a thread of its own; the server has done its work by then."""
        self.dead = False
        self.says: Callable[[str], bytes | None] = lambda path: None
        """What is answered to a request of this path instead, with status 200; None passes it on."""
        self.drips = False
        """Each answer comes byte by byte, and never to its end."""
        self.status: Callable[[str], int | None] = lambda path: None
        """An error to answer with instead."""
        self.asked_by: set[tuple[str, ...]] = set()
        """Command lines of those who have asked, as far as they were still there."""
        self._over = threading.Event()
        self.taken = 0
        """Requests that reached the server."""
        self.answered = 0
        """Requests whose answers went back."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def note(self, port: int) -> None:
        """Who is at the other end of a connection from this port of this machine."""
        for one in psutil.net_connections("tcp4"):
            if one.laddr.port == port and one.pid not in (None, os.getpid()):
                with suppress(psutil.Error):
                    self.asked_by.add(tuple(psutil.Process(one.pid).cmdline()))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        middleman = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self._body()
                if middleman.dead:
                    self.close_connection = True  # as a process that is killed: no answer at all
                    return
                middleman.note(self.client_address[1])
                if middleman.drips:
                    self.drip()
                    return
                if status := middleman.status(self.path):
                    self.answer(status, [], b"it is out of order")
                    return
                if (said := middleman.says(self.path)) is not None:
                    self.answer(200, [("Content-Type", "text/html")], said)
                    return
                there = http.client.HTTPConnection("127.0.0.1", middleman.server, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                text = answer.read()
                middleman.taken += 1
                middleman.before()
                middleman.answered += 1
                self.answer(answer.status, answer.getheaders(), text)

            def answer(self, status: int, headers: Sequence[tuple[str, str]], text: bytes) -> None:
                with suppress(OSError):  # who asked may have given up
                    self.send_response(status)
                    for name, value in headers:
                        if name.lower() not in HOP_BY_HOP:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def drip(self) -> None:
                with suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    while not middleman._over.wait(0.05):
                        self.wfile.write(b" ")
                self.close_connection = True

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "") != "chunked":  # as files are sent
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                pieces = []
                while size := int(self.rfile.readline(), 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

            def log_message(self, *_: object) -> None:
                """Not a word."""

        return Handler
