"""Every byte that a run stands on, hashed anew: outputs, what they were made of, cache, checkpoints, record, versions.

DVC hashes a file once and then trusts its time and its name: a byte that flips on a disk goes on into runs, clones and
remotes under the digest of what it was. Nothing is changed here; `flows.verify.mend` does that.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import dvc
from flows.releases import releases
from flows.releases.refs import is_run
from flows.verify import files as verify_files
from flows.verify import record
from flows.verify.found import Found, Subject, Told, Wrong
from flows.workspace import file_at, files_at, git
from rlhf.errors import DependencyDown, PreflowError
from tasks.config import read_yaml
from tasks.tracking import kept


def verify(root: Path, run: str = "", told: Told = lambda *_: None) -> Found:
    """Look at what a run stands on; without a name at that of the checkout, its working copy and checkpoints, and at
    every promoted version.

    Raises:
        PreflowError: nothing was run here yet, nothing has this name, or a dvc.lock cannot be used.
    """
    return look(root, subject(root, run), told)


def look(root: Path, subject: Subject, told: Told = lambda *_: None) -> Found:
    """See `verify`."""
    found, seen, cache = Found(told), set[str](), dvc.cache(root)
    lacking = verify_files.objects(root, cache, subject.lock, found, seen)
    if subject.is_here:  # what its cache lacks lies there
        verify_files.working_copy(root, cache, subject.lock, found)
        verify_files.checkpoints(root, found)
    else:
        found.missing += lacking
    if subject.name and not subject.commit:
        found.missing.append(Wrong("run", subject.name, "", "has no ref here: it was pruned, or never fetched"))
    if subject.name:
        record.folders(root, subject.name, found)
        record.mlflow(root, subject, found)
    else:
        found.notes.append("no run here has this dvc.lock, so no journal, report or run in MLflow was looked at")
    record.versions(root, cache, "" if subject.is_here else subject.name, found, seen)
    return found


def subject(root: Path, run: str) -> Subject:
    """The run of this name; without one, that whose dvc.lock the checkout has.

    Raises:
        PreflowError: see `verify`.
    """
    path = root / "dvc.lock"
    present = path.read_bytes() if path.exists() else None
    if run:
        return _past(root, run, present)
    if present is None:
        raise PreflowError("there is no dvc.lock: nothing was run here yet; `preflow run` runs the pipeline")
    lock = verify_files.checked(read_yaml(path), "dvc.lock")
    name, commit = _run_with(root, present)
    return Subject(name, commit, lock, is_here=True)


def _past(root: Path, text: str, present: bytes | None) -> Subject:
    """A run by its ref; one that was pruned is known to MLflow alone."""
    try:
        release = releases.find(root, text)
    except PreflowError:
        if not _is_in_mlflow(root, text):
            raise
        return Subject(text, "", {}, is_here=False)
    if not release.run:
        raise PreflowError(
            f"{text} is no run; `git for-each-ref refs/preflow/runs` lists those there are; a version like policy/3 "
            "names one too"
        )
    locked = file_at(root, release.commit, "dvc.lock")
    lock = verify_files.checked(_loaded(locked), f"the dvc.lock of {release.ref}") if locked else {}
    return Subject(release.run, release.commit, lock, is_here=locked is not None and locked == present)


def _is_in_mlflow(root: Path, text: str) -> bool:
    try:
        return bool(kept.runs_of(root, text))
    except DependencyDown:
        return False


def _loaded(text: bytes) -> Any:
    try:
        return YAML(typ="safe").load(text.decode())
    except (YAMLError, UnicodeDecodeError):
        return None


def _run_with(root: Path, lock: bytes) -> tuple[str, str]:
    """Name and commit of the newest run that ended with this very dvc.lock; "" where none is kept here."""
    spaces = ("refs/preflow/runs", "refs/preflow-remote/runs")  # by name, backwards, our own come first
    form = "--format=%(objectname) %(refname:lstrip=-1)"
    lines = git(root, "for-each-ref", "--sort=-refname", form, *spaces).splitlines()
    listed = [(commit, name) for commit, name in (line.split(" ", 1) for line in lines) if is_run(name)]
    for (commit, name), files in zip(listed, files_at(root, [one for one, _ in listed], ["dvc.lock"]), strict=True):
        if not isinstance(files, PreflowError) and files.get("dvc.lock", ("", b""))[1] == lock:
            return name, commit
    return "", ""
