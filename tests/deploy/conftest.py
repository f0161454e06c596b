"""Postgres, MLflow and Prefect as deploy/compose.yaml runs them, on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import cluster
from tests.deploy.cluster import Cluster
from tests.deploy.composed import DEPLOY, SECRETS, Native, sh
from tests.ports import free_ports


@dataclass(frozen=True)
class Servers:
    """What runs, and how a client finds it."""

    postgres: Cluster
    native: Native

    @property
    def client(self) -> dict[str, str]:
        """Variables of whoever runs preflow: those of the worker."""
        own = self.native.environ("worker")
        return {name: value for name, value in own.items() if name.startswith(("MLFLOW_", "PREFECT_"))}

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, asked as the owner of the database, past all servers."""
        import psycopg2

        password = SECRETS[f"{database.upper()}_DB_PASSWORD"]
        where = {"host": "127.0.0.1", "port": self.postgres.port, "dbname": database, "user": database}
        connection = psycopg2.connect(**where, password=password)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                found: list[tuple[Any, ...]] = cursor.fetchall()
                return found
        finally:
            connection.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All services of the file, from an empty server on: databases, upgrades, then MLflow and Prefect until healthy."""
    folder = tmp_path_factory.mktemp("servers")
    with cluster.running(SECRETS["POSTGRES_PASSWORD"]) as postgres:
        passwords = {name: SECRETS[name] for name in ("MLFLOW_DB_PASSWORD", "PREFECT_DB_PASSWORD")}
        sh(DEPLOY / "postgres" / "databases.sh", env=postgres.environ() | passwords)
        native = Native(folder, postgres.port, *free_ports(2))
        for _ in range(2):  # an upgrade runs at every start
            native.once("mlflow-upgrade")
            native.once("prefect-upgrade")
        with native.serving("mlflow", "prefect"):
            yield Servers(postgres, native)


@pytest.fixture
def meet(tmp_path: Path) -> Path:
    """Where runs wait for each other and for the test."""
    folder = tmp_path / "meet"
    folder.mkdir()
    return folder
