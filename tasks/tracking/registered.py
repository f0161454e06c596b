"""What the registry holds, read: versions of registered models, and the aliases that point at them.

Importing MLflow takes seconds. Where the registry is an SQLite file it is read as that, so that a command which only
looks answers at once; whatever is unusual about the file is left to MLflow. `tasks.tracking.registry` alone writes.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.errors import DependencyDown, PreflowError
from tasks.tracking.boundary import PATIENCE, say, sentence, within
from tasks.tracking.store import Store, connect, database_of, is_absent, name_of

ALIAS = "champion"
_SLOW = 10.0  # seconds after which it is said what is waited for
_DELETED = "Deleted_Internal"  # MLflow keeps the row of a version that was deleted, as this stage
_NO_SUCH = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the model or version; the alias


@dataclass(frozen=True)
class Model:
    """A registered model."""

    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, dict[str, str]] = field(default_factory=dict)
    """Tags of each version, by its number."""


def champion(root: Path, name: str = "policy") -> dict[str, Any] | None:
    """The version that the alias `champion` of `name` points to, None where there is none yet.

    Keys: `version` (int), `ref`, `commit`, `run` (pipeline run id), `candidate`, `path`, `md5` (of the model folder),
    `lock` (sha256 of dvc.lock), `digests` (md5 by path of everything the run produced).

    Raises:
        DependencyDown: the registry did not answer, so nobody knows who the champion is.
    """
    found = _one(root, name, None, ALIAS)
    return _told(*found) if found else None


def version(root: Path, name: str, number: int | None = None, alias: str = ALIAS) -> dict[str, Any]:
    """A version of a registered model, by its number or, without one, by its alias.

    Keys: those of `champion`, `profile` (of its run) and `scores` (its evaluation, by measure).

    Raises:
        DependencyDown: the registry did not answer.
        PreflowError: there is no such model, version or alias; the message names those that there are.
    """
    if is_absent(root):
        raise PreflowError("no policy is registered here yet; `preflow run` promotes one, or name a folder")
    if found := _one(root, name, number, alias):
        return _told(*found)
    there = models(root)
    known = sorted(there.get(name, Model()).versions)
    if not known:
        raise PreflowError(f"no model `{name}` is registered; there are: {', '.join(there) or 'none'}")
    missing = f"alias `{alias}`" if number is None else f"version {number}"
    listed = ", ".join(map(str, known))
    raise PreflowError(f"`{name}` has no {missing}; it has the versions {listed}: name one as {name}/{known[-1]}")


def holding(root: Path, name: str, md5: str) -> int | None:
    """The newest version of `name` whose policy has these bytes; None where there is none.

    Raises:
        DependencyDown: the registry did not answer.
    """
    if (there := _of_file(root)) is not None:
        found = there.get(name, Model()).versions.items()
        return max((number for number, tags in found if tags.get("dvc.md5") == md5), default=None)
    with reachable(root) as store:
        return newest_with(store, name, "dvc.md5", md5)


def knows(root: Path, name: str) -> bool:
    """Whether the registry has any version of `name`.

    Raises:
        DependencyDown: the registry did not answer.
    """
    if (there := _of_file(root)) is not None:
        return bool(there.get(name, Model()).versions)
    with reachable(root) as store:
        found = store.client.search_model_versions(f"name = '{name}'", max_results=1)
        if not found:
            store.vouch()
        return bool(found)


def newest_with(store: Store, name: str, tag: str, value: str) -> int | None:
    """Newest version with this tag."""
    found = store.client.search_model_versions(f"name = '{name}' and tags.`{tag}` = '{value}'")
    if not found:
        store.vouch()
    return max((int(version.version) for version in found), default=None)


def versions(root: Path) -> list[dict[str, Any]]:
    """Every version of every registered model: `name`, `version`, `run`, `path`, `md5`, and whether it is `champion`.

    Raises:
        DependencyDown: the registry did not answer.
    """
    return [
        {
            "name": name,
            "version": number,
            "run": tags.get("preflow.run", ""),
            "path": tags.get("dvc.path", ""),
            "md5": tags.get("dvc.md5", ""),
            "champion": number == model.aliases.get(ALIAS),
        }
        for name, model in models(root).items()
        for number, tags in model.versions.items()
    ]


def models(root: Path) -> dict[str, Model]:
    """All registered models by name.

    Raises:
        DependencyDown: the registry did not answer.
    """
    if (found := _of_file(root)) is not None:
        return found
    with reachable(root) as store:
        return _ask(store)


@contextmanager
def reachable(root: Path) -> Iterator[Store]:
    """The store, for so long as `PATIENCE` has it; what fails inside is a dependency that is down."""
    slow = threading.Timer(_SLOW, say, [f"waiting for the model registry at {name_of(root)} …"])
    slow.daemon = True
    slow.start()
    try:
        with within(PATIENCE):
            yield connect(root)
    except PreflowError:
        raise
    except Exception as error:
        raise DependencyDown(f"the model registry did not answer ({sentence(error)})") from error
    finally:
        slow.cancel()


def _one(root: Path, name: str, number: int | None, alias: str) -> tuple[int, dict[str, str]] | None:
    """Number and tags of one version, by its number or else by its alias; a server is asked for no other."""
    if (there := _of_file(root)) is not None:
        model = there.get(name, Model())
        wanted = model.aliases.get(alias) if number is None else number
        return (wanted, model.versions[wanted]) if wanted in model.versions else None
    from mlflow.exceptions import MlflowException

    with reachable(root) as store:
        try:
            if number is None:
                found = store.client.get_model_version_by_alias(name, alias)
            else:
                found = store.client.get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code in _NO_SUCH:
                return None
            raise
        return int(found.version), dict(found.tags)


def _of_file(root: Path) -> dict[str, Model] | None:
    """All models where the registry is a file, or none yet; None where MLflow must be asked."""
    if is_absent(root):
        return {}
    database = database_of(root)
    return _read(database) if database else None


def _read(database: Path) -> dict[str, Model] | None:
    """From the file; None where that is not the file that the installed MLflow writes."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=20.0)) as there:
            named = there.execute("select name from registered_models order by name")
            found = {str(name): Model() for (name,) in named}
            for name, alias, number in there.execute("select name, alias, version from registered_model_aliases"):
                found[name].aliases[alias] = int(number)
            living = "select name, version from model_versions where current_stage is not ? order by version desc"
            for name, number in there.execute(living, (_DELETED,)):
                found[name].versions[int(number)] = {}
            for name, number, key, value in there.execute("select name, version, key, value from model_version_tags"):
                if int(number) in found[name].versions:
                    found[name].versions[int(number)][key] = value
    except (sqlite3.Error, KeyError):
        return None
    return found


def _ask(store: Store) -> dict[str, Model]:
    """From MLflow."""
    found = {
        str(one.name): Model(aliases={alias: int(number) for alias, number in one.aliases.items()})
        for one in _pages(store.client.search_registered_models)
    }
    if not found:
        store.vouch()
    for name, model in found.items():
        for one in _pages(store.client.search_model_versions, f"name = '{name}'"):
            model.versions[int(one.version)] = dict(one.tags)
    return found


def _pages(search: Callable[..., Any], *asked: str) -> Iterator[Any]:
    """Everything that a search finds; it answers with so many at a time."""
    token = None
    while token != "":
        page = search(*asked, page_token=token)
        yield from page
        token = page.token or ""


def _told(number: int, tags: Mapping[str, str]) -> dict[str, Any]:
    try:
        return _facts(number, tags)
    except (KeyError, ValueError) as error:
        raise PreflowError(
            f"version {number} in the model registry was not registered by preflow, or changed since "
            f"({sentence(error)}): move its alias, or give this project another `registry.name`"
        ) from None


def _facts(number: int, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": number,
        "ref": tags.get("git.ref"),
        "commit": tags.get("git.commit"),
        "run": tags["preflow.run"],
        "candidate": tags["candidate"],
        "path": tags["dvc.path"],
        "md5": tags["dvc.md5"],
        "lock": tags["dvc.lock.sha256"],
        "digests": json.loads(tags["digests"]),
        "profile": tags.get("preflow.profile", ""),
        "scores": json.loads(tags.get("scores") or "{}"),
    }
