"""A stand-in for Docker's daemon: runs a container's command here, with the variables that it is given and no other."""

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.pools.cluster import of_image
from tests.pools.hosts import power_off

Object = dict[str, Any]


@dataclass
class Daemon:
    """Nothing is pulled: a container's own disk is a folder, and paths that are bound to it lead to the host's."""

    base: Path
    url: str = ""
    containers: list[Object] = field(default_factory=list)
    """As they were asked for."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.base.glob("*/said")))

    def answer(self, method: str, path: list[str], asked: Object) -> Object:
        match method, *path:
            case "GET", "version":
                return {"ApiVersion": "1.47", "Version": "28.0.0"}
            case "GET", "images", *_:
                return {"Id": "sha256:0", "RepoTags": []}
            case "POST", "containers", "create":
                self.containers.append(asked)
                return {"Id": f"container-{len(self.containers) - 1}"}
            case "POST", "containers", name, "start":
                self.processes[name] = self._started(name)
                return {}
            case "POST", "containers", name, "wait":
                return {"StatusCode": self.processes[name].wait()}
            case "GET", "containers", name, "json":
                state = {"Status": "running" if name in self.processes else "created", "ExitCode": 0}
                return {"Id": name, "Name": f"/{name}", "State": state, "Config": {"Tty": False}}
            case "GET", "containers", _, "logs":
                return {}
        raise AssertionError((method, path))

    def _started(self, name: str) -> subprocess.Popen[bytes]:
        asked, folder = self.containers[int(name.rpartition("-")[2])], self.base / name
        environ = of_image(self.base, folder / "home") | dict(one.split("=", 1) for one in asked["Env"])
        places = {one.split(":")[1]: one.split(":")[0] for one in asked["HostConfig"]["Binds"]}
        for path, place in (places | {"/srv/preflow": str(folder / "disk")}).items():
            inside = {key: value for key, value in environ.items() if value == path or value.startswith(f"{path}/")}
            environ |= {key: f"{place}{value.removeprefix(path)}" for key, value in inside.items()}
        command = asked["Cmd"] if isinstance(asked["Cmd"], list) else shlex.split(asked["Cmd"])
        with (folder / "said").open("wb") as log:
            argv = ["preflow-worker", *command]  # the image's entrypoint
            return subprocess.Popen(
                argv, cwd=folder / "home", env=environ, stdout=log, stderr=log, start_new_session=True
            )


@contextmanager
def daemon(base: Path) -> Iterator[Daemon]:
    """Until this is over; then it is gone with all its containers."""
    made = Daemon(base)

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = [part for part in urlsplit(self.path).path.split("/") if part]
            path = path[1:] if path[0].startswith("v1.") else path
            length = int(self.headers.get("Content-Length") or 0)
            asked = json.loads(self.rfile.read(length) or "{}")
            answer = made.answer(self.command, path, asked)
            data = b"" if path[-1] == "logs" else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            return

    base.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    made.url = f"tcp://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        for process in made.processes.values():
            power_off(process)
        server.shutdown()
        server.server_close()
