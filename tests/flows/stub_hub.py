"""A stand-in for the Hugging Face hub on this machine: one server, repositories as folders."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.web_servers import Quiet, on_a_thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve `root`/<models or datasets>/<org>/<name> at commit COMMIT of `main`; yields the address."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.answer(whole=True)

        def do_HEAD(self) -> None:
            self.answer(whole=False)

        def answer(self, whole: bool) -> None:
            code, kind, body = _reply(root, self.path.partition("?")[0])
            self.send_response(code)
            self.send_header("Content-Type", "application/json" if kind == "api" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            if code != 200:
                self.send_header("X-Error-Code", kind)
            self.end_headers()
            if whole:
                self.wfile.write(body)

    with on_a_thread(Handler) as url:
        yield url


def _reply(root: Path, path: str) -> tuple[int, str, bytes]:
    """Status, `api`, `file` or the code of an error, and the body."""
    asked = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
    if asked:
        folder = root / asked[1] / asked[2]
        if not folder.is_dir():
            return (401, "GatedRepo", b"") if asked[2].startswith("gated/") else (404, "RepoNotFound", b"")
        if asked[4] not in (None, "main", COMMIT):
            return 404, "RevisionNotFound", b""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [file.relative_to(folder).as_posix() for file in files]
        if asked[3] == "tree":
            listed = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": name}
                for name, file in zip(names, files, strict=True)
            ]
            return 200, "api", json.dumps(listed).encode()
        told = {"id": asked[2], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return 200, "api", json.dumps(told).encode()
    asked = re.fullmatch(rf"/(datasets/)?([^/]+/[^/]+)/resolve/(?:main|{COMMIT})/(.+)", path)
    file = root / ("datasets" if asked and asked[1] else "models") / asked[2] / asked[3] if asked else None
    if file is None or not file.is_file():
        return 404, "EntryNotFound", b""
    return 200, "file", file.read_bytes()
