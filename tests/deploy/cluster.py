"""A Postgres server of its own: unprivileged, on a loopback port, in a folder that goes with it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_ports


@dataclass(frozen=True)
class Cluster:
    """Its programs, and where it is."""

    programs: Path
    folder: Path
    port: int
    password: str
    settings: tuple[str, ...] = ("fsync=off",)
    """Of a server that nobody will miss after a crash of the machine."""

    def start(self) -> None:
        """Returns when it accepts connections."""
        settings = "".join(f" -c {one}" for one in ("listen_addresses=127.0.0.1", *self.settings))
        options = f"-p {self.port} -k {self.folder}{settings}"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """`fast` ends every session, `immediate` is a crash."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", how, "stop")

    def make(self) -> None:
        """An empty cluster whose superuser has a password, over TCP too."""
        (self.folder / "password").write_text(self.password)
        own(self.folder / "password")
        self._run("initdb", "-D", "data", "-U", "postgres", "--auth=scram-sha-256", "--pwfile=password")

    def environ(self, password: str | None = None) -> dict[str, str]:
        """By which psql, pg_dump and pg_restore find it."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGPASSWORD": password or self.password}
        return {"PATH": path, **where}

    def _run(self, program: str, *arguments: str) -> None:
        user = {"user": NOBODY, "group": NOGROUP, "extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "output").open("w+") as output:  # a pipe would be held open by the server
            argv = [self.programs / program, *arguments]
            done = subprocess.run(argv, cwd=self.folder, stdout=output, stderr=output, check=False, **user)
            output.seek(0)
            assert done.returncode == 0, output.read()[-2000:]


NOBODY, NOGROUP = 65534, 65534


def own(path: Path) -> None:
    """Postgres refuses to run as root, as in a container of CI."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOGROUP)


@contextmanager
def running(password: str) -> Iterator[Cluster]:
    """A fresh server; skips the test where Postgres is not installed."""
    programs = installed()
    if programs is None:
        pytest.skip("no initdb on the PATH or in /usr/lib/postgresql: install your distribution's postgresql")
    # Not in pytest's folder: that is closed to the user whom Postgres runs as.
    with tempfile.TemporaryDirectory(prefix="preflow-postgres-") as name:
        folder = Path(name)
        own(folder)
        cluster = Cluster(programs, folder, *free_ports(1), password)
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")


def installed() -> Path | None:
    """Folder of Postgres' programs; Debian keeps those of the server off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None
