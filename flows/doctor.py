"""What is the matter with an installation or a project, and what would mend it. Nothing is changed by looking.

Each check is a function that yields what it finds; one that finds nothing is in order. What can be mended here without
losing anything has a `mend`.
"""

import http.client
import shutil
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows import dvc, guards, objects, server, worktrees
from rlhf.errors import Busy, PreflowError
from rlhf.manifests import problem
from tasks import environment, tracking
from tasks.config import read_yaml
from tasks.graph import load_graph
from tasks.in_time import in_time
from tasks.journal import home
from tasks.redact import address
from tasks.tracking import store
from tasks.tracking.runs import runs_of

CLASHES = [
    ("prefect", "<4", "fastapi", "<0.151", "its work pools answer 422, and from fastapi 0.155 on no flow starts"),
    ("prefect", "<4", "sqlalchemy", "<2.1", "its server starts, and its scheduler makes no runs"),
]
"""Packages that resolve together and do not work together: (this, of these versions, needs that, of these, else)."""
SETUP = "`rm -rf .venv && make setup` installs what constraints.txt names"


@dataclass(frozen=True)
class Ailment:
    """Something that is not as it should be."""

    what: str
    cure: str
    """What a person can do."""
    mend: Callable[[], object] | None = None
    """What `--fix` does instead."""


def look(root: Path, check: Callable[[Path], Iterator[Ailment]]) -> list[Ailment]:
    """What a check finds; that it cannot be made is an ailment too, and keeps no other from being told."""
    found = []
    try:
        for one in check(root):
            found.append(one)
    except PreflowError as error:
        found.append(Ailment(str(error), "mend that, then look again: `preflow doctor`"))
    return found


def packages(root: Path) -> Iterator[Ailment]:
    """Versions that results depend on, what is not there, pairs that clash, and all else that constraints.txt pins."""
    try:
        environment.check(root)
    except PreflowError as error:
        yield Ailment(str(error), SETUP)
    if missing := [name for name in _required(root) if not _installed(name)]:
        yield Ailment(f"not installed, and pyproject.toml requires it: {_some(missing)}", SETUP)
    for name, these, needs, those, otherwise in CLASHES:
        if _is(name, these) and not _is(needs, those):
            yield Ailment(f"{name} {_installed(name)} with {needs} {_installed(needs)}: {otherwise}", SETUP)
    pins = root / "constraints.txt"
    others = [
        f"{pin.name} {_installed(pin.name)} instead of {str(pin.specifier)[2:]}"
        for line in (pins.read_text(encoding="utf-8").splitlines() if pins.exists() else [])
        if line and not line.startswith("#")
        if _installed((pin := Requirement(line)).name) and not _is(pin.name, str(pin.specifier))
    ]
    if others:
        yield Ailment(f"other versions than constraints.txt pins: {_some(others)}", SETUP)


def project(root: Path) -> Iterator[Ailment]:
    """Files that every command reads; dvc.yaml needs params.yaml, so it is looked at only where that can be read."""
    for name, read in (("dvc.lock", read_yaml), ("params.yaml", read_yaml), ("dvc.yaml", lambda _: load_graph(root))):
        try:
            if name != "dvc.lock" or (root / name).exists():
                read(root / name)
        except PreflowError as error:
            yield Ailment(
                f"{name} cannot be read: {error}", f"mend it, or take the last good one: `git checkout {name}`"
            )
            return


def disk(root: Path) -> Iterator[Ailment]:
    """Room for a run."""
    try:
        guards.check_disk(root)
    except PreflowError as error:
        yield Ailment(str(error), "`preflow prune --older-than 30d --dry-run` says what old runs hold")


def locks(root: Path) -> Iterator[Ailment]:
    """What a killed dvc held, or left torn: every dvc command waits for it."""
    path = home(root) / "run.lock"
    if (path.exists() and guards.is_held(path)) or not dvc.is_stale(root):
        return
    yield Ailment(
        ".dvc/tmp/rwlock is of a dvc that is gone, and blocks every other",
        f"remove {dvc.RWLOCK}",
        partial(_unlock, root),
    )


def runs(root: Path) -> Iterator[Ailment]:
    """Runs whose process is gone and which MLflow takes for running, and worktrees that nobody works in."""
    dead = [run.run_id for run in runs_of(root) if run.is_over()]
    if dead:
        what = f"over, and MLflow does not know it: {_some(dead)}"
        yield Ailment(what, "the next `preflow run` or `preflow status` tells it", partial(tracking.reconcile, root))
    left = [tree.name for tree in worktrees.abandoned(root)]
    if left:
        what = f"the worktree is left of a run that failed or died: {_some(left)}"
        yield Ailment(what, "the next run with settings removes them", partial(worktrees.sweep, root))


def drafts(root: Path) -> Iterator[Ailment]:
    """Checkpoints that a kill left half written, and those set aside as damaged; a run may be writing one."""
    scratch = home(root) / "scratch"
    try:
        objects.refuse_if_busy(root)
    except Busy:
        return
    halves = [path for name in (".tmp-*", ".old-*") for path in scratch.glob(f"*/**/{name}")]
    aside = list(scratch.glob("*/**/broken-*"))
    maybe = [path for path in aside if _may_be_whole(path)]
    useless = [*halves, *(path for path in aside if path not in maybe)]
    if useless:
        names = _some([path.relative_to(scratch).as_posix() for path in useless])
        yield Ailment(f"nothing will read these checkpoints: {names}", "remove them", partial(_clear, root, useless))
    for path in maybe:
        yield Ailment(
            f"{path.relative_to(scratch)} was set aside, and no damage is found in it now (reason.txt says what was)",
            f"name it {path.name.removeprefix('broken-')} again to have it gone on with, or remove it",
        )


def services(root: Path) -> Iterator[Ailment]:
    """Servers that the user has named, and that do not answer; those of the project are started when needed."""
    named = server.configured()
    if named and not server.healthy(named):
        yield Ailment(
            f"no Prefect server answers at {named}", "start it, or unset PREFECT_API_URL to use the project's own"
        )
    uri = store.uri_of(root)
    if uri.startswith("http") and not _answers(uri):
        yield Ailment(
            f"no MLflow server answers at {address(uri)}",
            "start it, or unset MLFLOW_TRACKING_URI to use mlruns/mlflow.db; runs go on meanwhile and are told later",
        )


def remotes(root: Path) -> Iterator[Ailment]:
    """DVC remotes from which damaged bytes would be taken at their word."""
    for name in objects.remotes(root):
        if dvc.call(root, "config", f"remote.{name}.verify").stdout.strip() != "true":
            yield Ailment(
                f"what comes from the DVC remote {name} is not hashed before it counts",
                f"dvc remote modify {name} verify true",
                partial(dvc.call, root, "remote", "modify", name, "verify", "true"),
            )


CHECKS: dict[str, Callable[[Path], Iterator[Ailment]]] = {
    "packages": packages,
    "project": project,
    "disk": disk,
    "locks": locks,
    "runs": runs,
    "checkpoints": drafts,
    "servers": services,
    "remotes": remotes,
}


def _required(root: Path) -> list[str]:
    """Packages that the project cannot do without."""
    path = root / "pyproject.toml"
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise PreflowError(f"{path.name} cannot be read: {error}") from None
    wanted = map(Requirement, told.get("project", {}).get("dependencies", []))
    return [one.name for one in wanted if one.marker is None or one.marker.evaluate()]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _is(name: str, specifier: str) -> bool:
    """Whether a package is installed in one of these versions; local parts (`+cpu`) are not looked at."""
    found = _installed(name)
    return bool(found) and SpecifierSet(specifier).contains(found, prereleases=True)


def _answers(uri: str) -> bool:
    def ask() -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{uri.rstrip('/')}/health", timeout=5.0) as answer:
            return bool(answer.status == 200)

    try:
        return in_time(ask, 10.0, uri)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is there, and wants to know who asks
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _may_be_whole(checkpoint: Path) -> bool:
    """Also where it cannot be read just now."""
    try:
        return problem(checkpoint) is None
    except OSError:
        return True


def _unlock(root: Path) -> None:
    with guards.held(home(root) / "run.lock", "doctor"):
        dvc.mend_rwlock(root)


def _clear(root: Path, paths: list[Path]) -> None:
    with objects.nobody_else(root, "doctor --fix"):
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
