"""deploy/compose.yaml as a program reads it: variables filled in as Compose does, services as commands to run here."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.processes import end_group, spawn

REPO = Path(__file__).parents[2]
DEPLOY = REPO / "deploy"
SECRETS = {
    "POSTGRES_PASSWORD": "all / of @ it",
    "MLFLOW_DB_PASSWORD": "m@p:/ 'w'",
    "PREFECT_DB_PASSWORD": "p@p:/ \\w%",
    "MLFLOW_ADMIN_PASSWORD": "twelve-or-more-of-them",
    "MLFLOW_SECRET_KEY": "signs-cookies",
    "PREFECT_AUTH_STRING": "team:pass",
}
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


def sh(*command: str | Path, env: Mapping[str, str], cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, env=dict(env), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Variables as Compose fills them in.

    Raises:
        KeyError: one that is required (`${NAME:?what to do}`) has no value; its message is that of the file.
    """

    def value(match: re.Match[str]) -> str:
        found = variables.get(match["name"])
        if not found and match["kind"] == "?":
            raise KeyError(match["text"])
        return found or (match["text"] if match["kind"] == "-" else "") or ""

    return _VARIABLE.sub(value, text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with `variables`, anchors and merges resolved."""
    found: dict[str, Any] = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    told: dict[str, Any] = _filled(found, variables)
    return told


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(child, variables) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, variables) for child in value]
    return filled(value, variables) if isinstance(value, str) else value


@dataclass(frozen=True)
class Native:
    """The services of the file on this machine: their commands and variables, with this machine's paths and ports."""

    folder: Path
    postgres: int
    """Port."""
    mlflow: int
    prefect: int
    patience: float = 180.0
    """Seconds for a service to become healthy."""

    @property
    def services(self) -> dict[str, Any]:
        """Of the file, with ports of ours."""
        ports = {"MLFLOW_PORT": str(self.mlflow), "PREFECT_PORT": str(self.prefect)}
        found: dict[str, Any] = compose(SECRETS | ports)["services"]
        return found

    def here(self, text: str) -> str:
        """What a container calls its things, as they are called on this machine."""
        for theirs, ours in {
            "@postgres/": f"@127.0.0.1:{self.postgres}/",
            "0.0.0.0": "127.0.0.1",
            "5000": str(self.mlflow),
            "4200": str(self.prefect),
            "http://mlflow:": "http://127.0.0.1:",
            "http://prefect:": "http://127.0.0.1:",
            "/etc/mlflow": str(self.folder),
            "=/artifacts": f"={self.folder / 'artifacts'}",
        }.items():
            text = text.replace(theirs, ours)
        return text

    def command(self, service: str) -> list[str]:
        program, *words = self.services[service]["command"]
        return [str(Path(sys.executable).with_name(program)), *map(self.here, words)]

    def environ(self, service: str) -> dict[str, str]:
        """Of the file and nothing else: what this shell has must not help."""
        own = {name: self.here(value) for name, value in self.services[service]["environment"].items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"} | own

    def once(self, service: str) -> None:
        """Run a service that ends."""
        sh(*self.command(service), env=self.environ(service), cwd=self.folder)

    @contextmanager
    def serving(self, *services: str) -> Iterator[None]:
        """Run services that stay, until their health checks pass, and to the end of the block."""
        (self.folder / "auth.ini").write_text(self.here((DEPLOY / "mlflow" / "auth.ini").read_text()))
        with ExitStack() as stack:
            for service in services:
                log = stack.enter_context((self.folder / f"{service}.log").open("wb"))
                own = self.environ(service)
                process = spawn(self.command(service), cwd=self.folder, env=own, output=log)
                stack.callback(end_group, process)
            for service in services:
                self._wait(service)
            yield

    def _wait(self, service: str) -> None:
        check = [sys.executable, *self.services[service]["healthcheck"]["test"][2:-1]]
        check.append(self.here(self.services[service]["healthcheck"]["test"][-1]))
        deadline = time.monotonic() + self.patience
        while subprocess.run(check, capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, (self.folder / f"{service}.log").read_text()[-3000:]
            time.sleep(0.5)
