"""The one place that opens MLflow: where the store is, and that it runs no pickles and calls nobody."""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from tasks.in_time import in_time
from tasks.redact import address
from tasks.tracking import views
from tasks.tracking.boundary import left, say
from tasks.tracking.telling import telling

T = TypeVar("T")

EXPERIMENT_NOTE = """Every run is one pass of the pipeline of `dvc.yaml`; its children are the stages. **[Open the prepared view]({view})**: gain, promotion, time, and what they cost.

* What leads that view: `<judge>_gain` (the candidate over whom the gate compared it with, `_low` and `_high` are its 95% interval), `promoted`, `seconds`, `stages_ran` and `stages_cached`.
* Then a section a measure, a chart a policy: `gold_reward/…`, `win_rate_vs_sft/…`, `kl/…`, `length/…`; `reward_model/…` and `gate/…`; `plots/…` lie side by side over runs.
* Parameters are those that some stage reads; *Show diff only* in the comparison leaves what was set.
* Child runs of one name (`rl`, `sft`, …) share their metric names, so their curves lie over each other. `final/…` are the numbers of their metrics file, `eval/…` how their policy did.
* `samples.json`, `policies.json` and `gate.json` are tables: choose them in the artifact view and group `samples.json` by prompt and policy.
* Weights and data are in DVC: models and data sets carry their md5 and a `dvc://` source, which `mlflow.data.get_source(…).load()` fetches.
"""  # noqa: E501


@dataclass(frozen=True)
class Store:
    """An open tracking store and registry."""

    uri: str
    client: Any
    database: Path | None
    """The file, where it is an SQLite database; the artifacts of runs are beside it then."""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what was put among artifacts, by `tasks.tracking.artifacts.name_in`."""

    @property
    def name(self) -> str:
        """What files call it: its address without a password."""
        return address(self.uri)

    def vouch(self) -> None:
        """Raises Stranger where not MLflow answers: what says yes to everything would lose what it is told."""
        if self.database:
            return
        from mlflow.entities import ViewType

        if not self.client.search_experiments(ViewType.ALL, max_results=1):
            raise Stranger("what answers at its address knows no experiment, so it is not MLflow")

    def experiment(self, name: str) -> str:
        """Id of the experiment, made with a description where there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return identified(found.experiment_id)
        location = (self.database.parent / "artifacts").as_uri() if self.database else None
        tags = {"mlflow.experimentKind": "custom_model_development"}
        made = identified(self.client.create_experiment(name, artifact_location=location, tags=tags))
        self.client.set_experiment_tag(made, views.TAG, views.overview("gold", "gold_reward", ["rl"]))
        self.client.set_experiment_tag(made, "mlflow.note.content", EXPERIMENT_NOTE.format(view=views.link(made)))
        return made


class Stranger(ValueError):
    """Something else than MLflow answers."""


class _InTime:
    """MLflow's client, each call of which has so many seconds, also where the server drips or the database hangs."""

    def __init__(self, client: Any, server: str) -> None:
        self._client, self._server = client, server

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            return asked(lambda: getattr(self._client, name)(*given, **named), f"{name} of {self._server}")

        return call


def asked(do: Callable[[], T], what: str) -> T:
    """What a server answers, in twice the time that one request may take, and no more than `boundary.within` leaves.

    Raises:
        TimeoutError: it did not; what it does with the question all the same is found again by later ones.
    """
    seconds = min(2 * float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]), left())
    if not seconds:
        raise TimeoutError("its time is over")
    return in_time(do, seconds, what)


def identified(given: object) -> str:
    """An id that MLflow gave. Raises Stranger for none: with an empty one nothing could ever be told."""
    if not given:
        raise Stranger("what answers at its address gives no ids, so it is not MLflow")
    return str(given)


def uri_of(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the database of the main checkout, also for a worktree of it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_main_checkout(root)}/mlruns/mlflow.db"


def name_of(root: Path) -> str:
    """`Store.name` without opening it."""
    return address(uri_of(root))


def is_absent(root: Path) -> bool:
    """Whether nothing was ever kept: a database of ours that is still to be made."""
    database = database_of(root)
    return database is not None and not database.exists()


def database_of(root: Path) -> Path | None:
    """The file of the store, where that is an SQLite database."""
    uri = uri_of(root)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def folder_of(database: Path | None, run: str) -> Path | None:
    """Where the artifacts of a run are, where that is a folder of this machine; asks the file, and not MLflow."""
    if database is None or not database.exists():
        return None
    with closing(sqlite3.connect(database, timeout=20.0)) as there:
        uri = urlsplit(str(_first(there, "select artifact_uri from runs where run_uuid = ?", run)))
    return Path(unquote(uri.path)) if uri.scheme == "file" and not uri.netloc else None


def connect(root: Path) -> Store:
    """The store of `root`; one client a process and store."""
    return _open(uri_of(root))


@cache
def _open(uri: str) -> Store:
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # the terminal is the run's
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # It would print the page of each run that ends, of a server only, and standard output is for programs.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # A slow server is given its time, and nothing is asked again by itself: it may have made what it did not answer to,
    # a run, and would make it twice. Whatever it misses is in the journal.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # What they say of an error is a traceback, beside the line that we have for it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if database and not _is_whole(database):
        _make_whole(database)
    from mlflow import MlflowClient

    if database:
        return Store(uri, MlflowClient(tracking_uri=uri, registry_uri=uri), database)
    server = address(uri)
    client = asked(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri), f"opening {server}")
    return Store(uri, _InTime(client, server), None)


def _is_whole(database: Path) -> bool:
    """Whether it is there with all tables of the installed MLflow, which opens no other and mends none."""
    if not database.exists():
        return False
    from mlflow.store.db.utils import _get_latest_schema_revision

    with closing(sqlite3.connect(database)) as there:
        return bool(_first(there, "select version_num from alembic_version") == _get_latest_schema_revision())


def _make_whole(database: Path) -> None:
    """Make it, or make it again where a making was interrupted; where it holds runs, upgrade it.

    All of that is done beside it, so that another interruption harms nothing.
    """
    with _alone(database) as part:
        if _is_whole(database):  # another process was faster
            return
        what = "making its database"
        if database.exists():
            with closing(sqlite3.connect(database)) as old:
                what = "its database was left half made; making it again"
                if _first(old, "select 1 from runs limit 1"):
                    what = "upgrading its database to the installed version"
                    with closing(sqlite3.connect(part)) as new:
                        old.backup(new)
        say(f"MLflow: {what} (once, some seconds)")
        _upgrade(part)
        part.replace(database)


def _upgrade(path: Path) -> None:
    """All tables of the installed MLflow, whatever was there: what `mlflow db upgrade` does."""
    from mlflow.db import upgrade

    upgrade.callback(f"sqlite:///{path}")


@contextmanager
def _alone(database: Path) -> Iterator[Path]:
    """A free path beside `database`; one process at a time has it."""
    database.parent.mkdir(parents=True, exist_ok=True)
    part = database.with_name(f"{database.name}.part")
    with telling(part.with_suffix(".lock"), "the making of MLflow's database"):
        for leftover in (part, part.with_name(f"{part.name}-journal")):
            leftover.unlink(missing_ok=True)
        yield part


def _first(database: sqlite3.Connection, query: str, *values: str) -> Any:
    """The first value that a query finds; None also where there is no such table."""
    try:
        return next((row[0] for row in database.execute(query, values)), None)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise


def _main_checkout(root: Path) -> Path:
    """The checkout that a git worktree belongs to; `root` itself where it is one or git is absent."""
    pointer = root / ".git"
    if pointer.is_file():
        folder = Path(pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        if folder.parent.name == "worktrees":
            return folder.parents[2].resolve()
    return root.resolve()
