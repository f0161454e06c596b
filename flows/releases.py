"""Promoted versions as git refs: who has the repository knows them, with or without MLflow.

`refs/preflow/<name>/v<N>` is a commit that holds all that its run held, and `release.json`; the run's own commit is its
parent. `refs/preflow/<name>/champion` points at the version that serves. What a git remote has is fetched below
`refs/preflow-remote/`, so that it never moves a ref of this clone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
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
_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_WORD = re.compile(r"(?!\.+$)[\w.-]+")
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


def push(root: Path, name: str, version: int, over: int | None = None) -> str:
    """Send a version, its run and `champion` to the git remote, all or nothing; "" where there is no remote.

    Args:
        over: version that who crowned this one knew as the champion, by whatever registry.

    Returns:
        The name of the remote.

    Raises:
        PreflowError: the remote has another version under this number, or a champion that this clone has not seen; it
            counts as seen from then on.
        DependencyDown: it did not take them.
    """
    remote = fetch(root)
    if not remote:
        return ""
    found = find(root, f"{name}/{version}")
    if (theirs := _commit_at(root, _theirs(found.ref))) and not _holds(root, found.commit, theirs):
        raise PreflowError(_two_registries(remote, name, version))
    refs = [f"{found.commit}:{found.ref}"]
    if found.run and _commit_at(root, f"refs/preflow/{RUNS}/{found.run}"):
        refs.append(f"refs/preflow/{RUNS}/{found.run}")
    ref = _ref(name, CHAMPION)
    if crowned := _commit_at(root, ref):
        theirs = _refuse_unseen(root, remote, name, crowned, over)
        refs = [f"--force-with-lease={ref}:{theirs}", remote, *refs, f"{crowned}:{ref}"]
    else:
        refs = [remote, *refs]
    try:
        git(root, "push", "--quiet", "--atomic", *refs, env=_QUIET)
    except PreflowError as error:
        if "non-fast-forward" in str(error) or "fetch first" in str(error):
            raise PreflowError(_two_registries(remote, name, version)) from None
        if "stale info" in str(error):
            raise PreflowError(f"the champion of {name} on {remote} has just changed; send it again") from None
        raise DependencyDown(f"the git remote {remote} did not take {name} v{version}: {_last(error)}") from None
    if crowned:
        git(root, "update-ref", _theirs(ref), crowned)
        git(root, "update-ref", _seen(name), crowned)
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

    Only git is asked: first this clone, then its remote. For the champion both are: the one here counts where this
    clone crowned it since it last sent one, and where the remote does not answer.

    Raises:
        PreflowError: nothing has this name; the message says what there is.
        DependencyDown: it is not here, and the remote did not answer.
    """
    text = text or registry(root)
    ref = _ref_of(text)
    commit = _commit_at(root, ref)
    if commit and ref != text and ref.endswith(f"/{CHAMPION}"):
        commit = _champion(root, ref, commit)
    if commit is None:
        remote = fetch(root)
        commit = _commit_at(root, _theirs(ref))
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


def crowned(root: Path, name: str) -> int | None:
    """Version that this clone holds for the champion; None where it has no such ref."""
    ref = _ref(name, CHAMPION)
    commit = _commit_at(root, ref)
    return _read(root, ref, commit).version if commit else None


def run_here(root: Path, run: str) -> str:
    """Commit of a run that this clone made; "" where it did not."""
    return _commit_at(root, f"refs/preflow/{RUNS}/{run}") or ""


def check_name(name: str) -> None:
    """Raises PreflowError where versions of a model of this name could not be kept as refs."""
    well = re.fullmatch(r"[\w.-]+", name) and ".." not in name and not name.endswith((".", ".lock"))
    if not well or name.startswith(".") or name == RUNS:
        raise PreflowError(
            f"registry.name: {name!r} cannot name refs in git: choose one of letters, digits, `_`, `-` and single "
            f"dots, not at its ends, that does not end in .lock; `{RUNS}` is where runs are kept"
        )


def remote_of(root: Path) -> str:
    """The git remote that versions go to: `origin`, else the only one; "" where it is not clear."""
    remotes: Sequence[str] = git(root, "remote").split()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else ""


def _ref(name: str, last: str) -> str:
    if name == RUNS:
        check_name(name)
    return f"refs/preflow/{name}/{last}"


def _ref_of(text: str) -> str:
    if text.startswith("refs/preflow/"):
        return text
    if _RUN.fullmatch(text):
        return f"refs/preflow/{RUNS}/{text}"
    match = _NAME.fullmatch(text)
    if match is None:
        raise PreflowError(f"{text}: expected a model (NAME, NAME@champion, NAME/3), a run, or a ref of refs/preflow/")
    if match["version"]:
        return _ref(match["name"], f"v{int(match['version'])}")
    return _ref(match["name"], match["alias"] or CHAMPION)


def _theirs(ref: str) -> str:
    """Where `fetch` puts what the remote has under a ref."""
    return ref.replace("refs/preflow/", "refs/preflow-remote/", 1)


def _seen(name: str) -> str:
    """The remote's champion as this clone last sent it, or was told of it when it was about to replace it."""
    return f"refs/preflow-seen/{name}/{CHAMPION}"


def _champion(root: Path, ref: str, crowned: str) -> str:
    """Commit of the champion, of which this clone has one."""
    if crowned != _commit_at(root, _seen(ref.split("/")[2])):
        return crowned  # of this clone's own mind, and not sent yet
    with suppress(DependencyDown):
        fetch(root)
    return _commit_at(root, _theirs(ref)) or crowned


def _refuse_unseen(root: Path, remote: str, name: str, crowned: str, over: int | None) -> str:
    """The remote's champion, which is to be replaced: one that this clone knows of; "" where it has none."""
    ref = _ref(name, CHAMPION)
    theirs = _commit_at(root, _theirs(ref))
    if theirs is None or theirs in (crowned, _commit_at(root, _seen(name))):
        return theirs or ""
    there, ours = _read(root, _theirs(ref), theirs), _read(root, ref, crowned)
    if there.version == over and _commit_at(root, _ref(name, f"v{over}")) in (None, theirs):
        return theirs
    git(root, "update-ref", _seen(name), theirs)
    raise PreflowError(
        f"{there.label} of run {there.run} is the champion on {remote} by now, which this clone had not seen: "
        f"`preflow rollback {name}/{ours.version}` puts {ours.label} in its place all the same, "
        f"`preflow rollback {name}/{there.version}` makes it the champion here too"
    )


def _holds(root: Path, commit: str, earlier: str) -> bool:
    """Whether a commit has another among its ancestors, or is it."""
    try:
        git(root, "merge-base", "--is-ancestor", earlier, commit)
    except PreflowError:
        return False
    return True


def _two_registries(remote: str, name: str, version: int) -> str:
    return (
        f"{remote} has another {name} v{version}: two clones with registries of their own promote under one name; give "
        "one of them another `registry.name`, or let both use one MLflow server"
    )


def _commit_at(root: Path, ref: str) -> str | None:
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except PreflowError:
        return None


def _read(root: Path, ref: str, commit: str) -> Release:
    lock = workspace.file_at(root, commit, "dvc.lock") or b""
    try:
        record = _checked(json.loads(workspace.file_at(root, commit, RECORD) or b"{}"))
        stages = (YAML(typ="safe").load(lock.decode()) or {}).get("stages") or {}
        outs = [out for stage in stages.values() for out in stage.get("outs") or () if "md5" in out]
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
    if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
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
    known = f"promoted are versions of {', '.join(names(root))}" if names(root) else "nothing is promoted yet"
    return f"{text} is {where}; {known}"


def _last(error: PreflowError) -> str:
    return str(error).strip().splitlines()[-1]
