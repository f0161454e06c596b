"""Promoted versions as git refs: who has the repository knows them, with or without MLflow.

`refs/preflow/<name>/v<N>` is a commit that holds all that its run held, and `release.json`; the run's own commit is its
parent. `refs/preflow/<name>/champion` points at the version that serves. What a git remote has is fetched below
`refs/preflow-remote/`, so that it never moves a ref of this clone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from flows import workspace
from flows.releases.refs import CHAMPION, RUNS, commit_at, fetch, ref_named, ref_of, seen_of, theirs_of
from flows.workspace import git
from rlhf.errors import DependencyDown, PreflowError
from tasks.config import read_yaml
from tasks.inside import leads_out
from tasks.lockfile import locked

RECORD = "release.json"
_KEPT = ("version", "run", "ref", "candidate", "path", "profile", "scores")
_WORD = re.compile(r"(?!\.+$)[\w.-]+")


@dataclass(frozen=True)
class Release:
    """What a name stands for: a promoted version, or a run that was not promoted."""

    ref: str
    commit: str
    run: str
    """Name of the run; "" for a commit that no run of ours made."""
    name: str = ""
    version: int | None = None
    candidate: str = ""
    path: str = ""
    """Of the policy that was promoted."""
    profile: str = ""
    lock: str = ""
    """sha256 of its dvc.lock."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """md5 by path of all that dvc.lock names as written."""
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def md5(self) -> str:
        """Of the promoted policy."""
        return self.digests.get(self.path, "")

    @property
    def label(self) -> str:
        """What a reader calls it."""
        return f"{self.name} v{self.version}" if self.version is not None else self.run or self.ref

    def told(self) -> dict[str, Any]:
        """As `tasks.tracking.version` tells of a version."""
        kept = ("version", "ref", "commit", "run", "candidate", "path", "md5", "lock", "profile")
        return {key: getattr(self, key) for key in kept} | {"digests": dict(self.digests), "scores": dict(self.scores)}


def publish(root: Path, name: str, version: Mapping[str, Any], commit: str) -> str:
    """Keep a promoted version (told as `tasks.tracking.version` does), made by the run of `commit`; returns its commit.

    Where the version has a ref already, as its bytes were promoted before, that commit stays reachable from this one.
    """
    ref = ref_named(name, f"v{version['version']}")
    record = {"name": name} | {key: version.get(key) for key in _KEPT}
    text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    before = commit_at(root, ref)
    if before and workspace.file_at(root, before, RECORD) == text.encode() and _same_run(root, before, commit):
        return before
    parents = [commit, before] if before else [commit]
    made = workspace.commit_on(root, parents, {RECORD: text.encode()}, f"preflow release {name} v{version['version']}")
    workspace.keep(root, ref, made)
    return made


def crown(root: Path, name: str, version: int) -> None:
    """Point `champion` at a version.

    Raises:
        PreflowError: this clone knows no such version.
    """
    workspace.keep(root, ref_named(name, CHAMPION), find(root, f"{name}/{version}").commit)


def find(root: Path, text: str = "") -> Release:
    """What `NAME`, `NAME@champion`, `NAME/3`, a run or a ref of ours stands for; "" is the champion of this project.

    Only git is asked: first this clone, then its remote. For the champion both are: the one here counts where this
    clone crowned it since it last sent one, and where the remote does not answer.

    Raises:
        PreflowError: nothing has this name; the message says what there is.
        DependencyDown: it is not here, and the remote did not answer.
    """
    text = text or registry(root)
    ref = ref_of(text)
    commit = commit_at(root, ref)
    if commit and ref != text and ref.endswith(f"/{CHAMPION}"):
        commit = _champion(root, ref, commit)
    if commit is None:
        remote = fetch(root)
        commit = commit_at(root, theirs_of(ref))
        if commit is None:
            raise PreflowError(_unknown(root, text, ref, remote))
    return read(root, ref, commit)


def versions(root: Path, name: str, say: Callable[[str], None] | None = None) -> list[Release]:
    """Promoted versions that this clone knows, its own and those fetched last, oldest first.

    Raises:
        PreflowError: one can not be read; with `say` that gets the line, and the others are told.
    """
    found: dict[int, tuple[str, str]] = {}
    for space in ("refs/preflow-remote", "refs/preflow"):
        for line in git(root, "for-each-ref", "--format=%(objectname) %(refname)", f"{space}/{name}").splitlines():
            commit, ref = line.split(" ", 1)
            if number := re.fullmatch(r"v(\d+)", ref.rsplit("/", 1)[1]):
                found[int(number[1])] = (ref_named(name, number[0]), commit)
    known = []
    for _, (ref, commit) in sorted(found.items()):
        try:
            known.append(read(root, ref, commit))
        except PreflowError as error:
            if say is None:
                raise
            say(f"left out: {error}")
    return known


def names(root: Path) -> list[str]:
    """Models that have a promoted version here."""
    refs = git(root, "for-each-ref", "--format=%(refname)", "refs/preflow", "refs/preflow-remote").splitlines()
    return sorted({ref.split("/")[2] for ref in refs if ref.split("/")[2] != RUNS})


def registry(root: Path) -> str:
    """The registered model of this checkout."""
    return str((read_yaml(root / "params.yaml").get("registry") or {}).get("name", "policy"))


def crowned(root: Path, name: str) -> int | None:
    """Version that this clone holds for the champion; None where it has no such ref."""
    ref = ref_named(name, CHAMPION)
    commit = commit_at(root, ref)
    return read(root, ref, commit).version if commit else None


def run_here(root: Path, run: str) -> str:
    """Commit of a run that this clone made; "" where it did not."""
    return commit_at(root, f"refs/preflow/{RUNS}/{run}") or ""


def read(root: Path, ref: str, commit: str) -> Release:
    """What a commit of ours says. Raises PreflowError where it is not what preflow writes."""
    lock = workspace.file_at(root, commit, "dvc.lock") or b""
    try:
        record = _checked(json.loads(workspace.file_at(root, commit, RECORD) or b"{}"))
        outs = [out for stage in locked(lock.decode()).values() for out in stage.get("outs") or () if "md5" in out]
        digests = {str(out["path"]): str(out["md5"]) for out in outs}
    except (ValueError, YAMLError, AttributeError, TypeError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise PreflowError(
            f"{ref} ({commit[:12]}): its {RECORD} or dvc.lock is not what preflow writes ({first}); fetch it again "
            "from where it was made, or delete the ref"
        ) from None
    run = record.get("run") or (ref.rsplit("/", 1)[1] if ref.startswith(f"refs/preflow/{RUNS}/") else "")
    return Release(
        ref=ref,
        commit=commit,
        run=run,
        name=record.get("name", ""),
        version=record.get("version"),
        candidate=record.get("candidate", ""),
        path=record.get("path", ""),
        profile=record.get("profile") or "",
        lock=hashlib.sha256(lock).hexdigest() if lock else "",
        digests=digests,
        scores=record.get("scores") or {},
    )


def _champion(root: Path, ref: str, crowned: str) -> str:
    """Commit of the champion, of which this clone has one."""
    if crowned != commit_at(root, seen_of(ref.split("/")[2])):
        return crowned  # of this clone's own mind, and not sent yet
    with suppress(DependencyDown):
        fetch(root)
    return commit_at(root, theirs_of(ref)) or crowned


def _checked(record: Any) -> dict[str, Any]:
    """A record that may have come from anywhere, as its fields become names of folders. Raises ValueError."""
    if not isinstance(record, dict):
        raise ValueError("no record")
    path, version = record.get("path") or "", record.get("version")
    for key in ("run", "name", "candidate"):
        value = record.get(key)
        if value and not (isinstance(value, str) and _WORD.fullmatch(value)):
            raise ValueError(f"{key} is {value!r}")
    if version is not None and (type(version) is not int or version < 1):
        raise ValueError(f"version is {version!r}")
    if not isinstance(path, str) or leads_out(path):
        raise ValueError(f"path is {path!r}")
    if not isinstance(record.get("scores") or {}, dict) or not isinstance(record.get("profile") or "", str):
        raise ValueError("scores or profile of another kind")
    return record


def _same_run(root: Path, release: str, commit: str) -> bool:
    return git(root, "rev-parse", f"{release}^1").strip() == git(root, "rev-parse", commit).strip()


def _unknown(root: Path, text: str, ref: str, remote: str) -> str:
    where = f"neither here nor on {remote}" if remote else "not here, and there is no git remote to ask"
    if ref.startswith(f"refs/preflow/{RUNS}/"):
        return f"{text}: this run is {where}; `git for-each-ref refs/preflow` lists what is"
    name = ref.split("/")[2]
    there = [release.version for release in versions(root, name)]
    if there:
        return f"{text} is {where}; {name} has the versions {', '.join(map(str, there))}"
    known = f"models are {', '.join(names(root))}" if names(root) else "no model is promoted yet"
    listed = f"`git for-each-ref refs/preflow/{RUNS}` lists the runs"
    return f"{text} is no run, version or alias that is known ({where}); {known}; {listed}"
