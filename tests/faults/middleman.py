"""A middleman before a real MLflow server: what comes through is as the test wants it."""

import http.client
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Middleman:
    """Passes requests on to a server of this machine. `port` is where it listens, dead or alive."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.before: Callable[[], None] = lambda: None
        """Called before a request is answered, in a thread of its own; the server has done its work by then."""
        self.dead = False
        self.taken = 0
        """Requests that reached the server."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        middleman = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self._body()
                if middleman.dead:
                    self.close_connection = True  # as a process that is killed: no answer at all
                    return
                there = http.client.HTTPConnection("127.0.0.1", middleman.server, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                text = answer.read()
                middleman.taken += 1
                middleman.before()
                with suppress(OSError):  # who asked may have given up
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in HOP_BY_HOP:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

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
