"""Postgres, MLflow and Prefect as deploy/compose.yaml runs them, natively, and with Postgres' own settings."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.limits.clock import Clock
from tests.deploy import cluster
from tests.deploy.composed import DEPLOY, SECRETS, Native, sh
from tests.ports import free_ports


@dataclass(frozen=True)
class Running:
    """The database server, and one server on it."""

    postgres: cluster.Cluster
    clock: Clock

    def sql(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """What the last statement finds; all of them are one transaction, in which no foreign key is looked up."""
        import psycopg2

        where = {"host": "127.0.0.1", "port": self.postgres.port, "dbname": database, "user": "postgres"}
        with psycopg2.connect(**where, password=self.postgres.password) as connection, connection.cursor() as cursor:
            for statement in ("set local session_replication_role = replica", *statements):
                cursor.execute(statement)
            found: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return found

    def maintain(self, database: str) -> None:
        """What autovacuum does within minutes, at once: plans then do not hang on when it came by."""
        environ = self.postgres.environ()
        sh("psql", "-U", "postgres", "-qc", "vacuum analyze", "-c", "checkpoint", database, env=environ)


@contextmanager
def serving(service: str) -> Iterator[Running]:
    """A fresh Postgres, and `mlflow` or `prefect` on it, which this process then finds by its environment."""
    programs = cluster.installed()
    if programs is None:
        sys.exit("no initdb on the PATH or in /usr/lib/postgresql: install your distribution's postgresql")
    with tempfile.TemporaryDirectory(prefix="preflow-limits-") as name:  # Postgres' user could not enter build/
        folder = Path(name)
        cluster.own(folder)
        ports = free_ports(3)
        postgres = cluster.Cluster(programs, folder, ports[0], SECRETS["POSTGRES_PASSWORD"], settings=())
        postgres.make()
        postgres.start()
        try:
            passwords = {name: SECRETS[name] for name in ("MLFLOW_DB_PASSWORD", "PREFECT_DB_PASSWORD")}
            sh(DEPLOY / "postgres" / "databases.sh", env=postgres.environ() | passwords)
            own = folder / "server"
            own.mkdir()
            native = Native(own, *ports, patience=900.0)
            native.once(f"{service}-upgrade")
            with native.serving(service):
                found = native.environ("worker").items()
                os.environ.update({key: value for key, value in found if key.startswith(("MLFLOW_", "PREFECT_"))})
                master = int((folder / "data/postmaster.pid").read_text().split()[0])
                servers = [process.pid for process in psutil.Process().children()]
                yield Running(postgres, Clock((master, *servers)))
        finally:
            postgres.stop("immediate")


def postgres_version() -> str:
    """Of the programs that are found."""
    programs = cluster.installed()
    told = subprocess.run([f"{programs}/postgres", "--version"], check=True, capture_output=True, text=True).stdout
    return told.split()[2]
