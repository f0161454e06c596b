"""Promoted versions as git refs: who has the repository knows them, with or without MLflow.

`refs/preflow/<name>/v<N>` is a commit that holds all that its run held, and `release.json`; the run's own commit is its
parent. `refs/preflow/<name>/champion` points at the version that serves. What a git remote has is fetched below
`refs/preflow-remote/`, so that it never moves a ref of this clone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import workspace
from flows.workspace import git
from rlhf.errors import DependencyDown, PreflowError
from tasks.config import read_yaml

CHAMPION = "champion"
RECORD = "release.json"
RUNS = "runs"
"""Below refs/preflow/; so no model can have this name."""
_KEPT = ("version", "run", "ref", "candidate", "path", "profile", "scores")
_NAME = re.compile(r"(?:models:/)?(?P<name>[^@/\s]+)(?:@(?P<alias>[^@/\s]+)|/v?(?P<version>\d+))?")
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}  # nobody is there to be asked


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
    ref = _ref(name, f"v{version['version']}")
    record = {"name": name} | {key: version.get(key) for key in _KEPT}
    text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    before = _commit_at(root, ref)
    if before and workspace.file_at(root, before, RECORD) == text.encode() and _same_run(root, before, commit):
        return before
    parents = [commit, before] if before else [commit]
    made = workspace.commit_on(
        root, parents, {RECORD: text.encode()}, f"preflow release {name} v{version['version']}"
    )
    workspace.keep(root, ref, made)
    return made


def crown(root: Path, name: str, version: int) -> None:
    """Point `champion` at a version.

    Raises:
        PreflowError: this clone knows no such version.
    """
    workspace.keep(root, _ref(name, CHAMPION), find(root, f"{name}/{version}").commit)


def push(root: Path, name: str, version: int) -> str:
    """Send a version, its run and `champion` to the git remote, all or nothing; "" where there is no remote.

    Returns:
        The name of the remote.

    Raises:
        PreflowError: the remote has another version under this number.
        DependencyDown: it did not take them.
    """
    remote = remote_of(root)
    if not remote:
        return ""
    found = find(root, f"{name}/{version}")
    refs = [f"{found.commit}:{_ref(name, f'v{version}')}"]
    if found.run and _commit_at(root, f"refs/preflow/{RUNS}/{found.run}"):
        refs.append(f"refs/preflow/{RUNS}/{found.run}")
    if crowned := _commit_at(root, _ref(name, CHAMPION)):
        refs.append(f"+{crowned}:{_ref(name, CHAMPION)}")
    try:
        git(root, "push", "--quiet", "--atomic", remote, *refs, env=_QUIET)
    except PreflowError as error:
        if "non-fast-forward" in str(error) or "fetch first" in str(error):
            raise PreflowError(
                f"{remote} has another {name} v{version}: two clones with registries of their own promote under one "
                "name; give one of them another `registry.name`, or let both use one MLflow server"
            ) from None
        raise DependencyDown(f"the git remote {remote} did not take {name} v{version}: {_last(error)}") from None
    return remote


def fetch(root: Path) -> str:
    """Bring what the git remote has of runs and versions; returns its name, "" where there is no remote.

    Raises:
        DependencyDown: it did not answer.
    """
    remote = remote_of(root)
    if remote:
        which = "+refs/preflow/*:refs/preflow-remote/*"
        try:
            git(root, "fetch", "--quiet", "--prune", "--no-tags", remote, which, env=_QUIET)
        except PreflowError as error:
            raise DependencyDown(f"the git remote {remote} did not answer: {_last(error)}") from None
    return remote


def find(root: Path, text: str = "") -> Release:
    """What `NAME`, `NAME@champion`, `NAME/3`, a run or a ref of ours stands for; "" is the champion of this project.

    Only git is asked: first this clone, then its remote.

    Raises:
        PreflowError: nothing has this name; the message says what there is.
        DependencyDown: it is not here, and the remote did not answer.
    """
    text = text or registry(root)
    ref = _ref_of(text)
    commit = _commit_at(root, ref)
    if commit is None:
        remote = fetch(root)
        commit = _commit_at(root, ref.replace("refs/preflow/", "refs/preflow-remote/", 1))
        if commit is None:
            raise PreflowError(_unknown(root, text, ref, remote))
    return _read(root, ref, commit)


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
                found[int(number[1])] = (_ref(name, number[0]), commit)
    read = []
    for _, (ref, commit) in sorted(found.items()):
        try:
            read.append(_read(root, ref, commit))
        except PreflowError as error:
            if say is None:
                raise
            say(f"left out: {error}")
    return read


def names(root: Path) -> list[str]:
    """Models that have a promoted version here."""
    refs = git(root, "for-each-ref", "--format=%(refname)", "refs/preflow", "refs/preflow-remote").splitlines()
    return sorted({ref.split("/")[2] for ref in refs if ref.split("/")[2] != RUNS})


def registry(root: Path) -> str:
    """The registered model of this checkout."""
    return str((read_yaml(root / "params.yaml").get("registry") or {}).get("name", "policy"))


def remote_of(root: Path) -> str:
    """The git remote that versions go to: `origin`, else the only one; "" where it is not clear."""
    remotes: Sequence[str] = git(root, "remote").split()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else ""


def _ref(name: str, last: str) -> str:
    if name == RUNS:
        raise PreflowError(f"registry.name: `{RUNS}` is where runs are kept; choose another name")
    return f"refs/preflow/{name}/{last}"


def _ref_of(text: str) -> str:
    if text.startswith("refs/preflow/"):
        return text
    if re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", text):
        return f"refs/preflow/{RUNS}/{text}"
    match = _NAME.fullmatch(text)
    if match is None:
        raise PreflowError(f"{text}: expected a model (NAME, NAME@champion, NAME/3), a run, or a ref of refs/preflow/")
    if match["version"]:
        return _ref(match["name"], f"v{int(match['version'])}")
    return _ref(match["name"], match["alias"] or CHAMPION)


def _commit_at(root: Path, ref: str) -> str | None:
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except PreflowError:
        return None


def _read(root: Path, ref: str, commit: str) -> Release:
    lock = workspace.file_at(root, commit, "dvc.lock") or b""
    try:
        record = dict(json.loads(workspace.file_at(root, commit, RECORD) or b"{}"))
        stages = (YAML(typ="safe").load(lock.decode()) or {}).get("stages") or {}
        outs = [out for stage in stages.values() for out in stage.get("outs") or () if "md5" in out]
    except (YAMLError, ValueError, AttributeError, TypeError) as error:
        said = str(error).partition("\n")[0]
        raise PreflowError(f"{ref}: its {RECORD} or dvc.lock can not be read: {said}") from None
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
        digests={str(out["path"]): str(out["md5"]) for out in outs},
        scores=record.get("scores") or {},
    )


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
    known = f"promoted are versions of {', '.join(names(root))}" if names(root) else "nothing is promoted yet"
    return f"{text} is {where}; {known}"


def _last(error: PreflowError) -> str:
    return str(error).strip().splitlines()[-1]
