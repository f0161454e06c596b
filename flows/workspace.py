"""Where a run works, and what is kept of it: a commit on a ref of its own, made beside the user's index and branch.

Everything is git plumbing on an index of its own: no hook runs, no identity is needed, nothing the user sees changes.
"""

import os
import re
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import PreflowError
from tasks.journal import home
from tasks.redact import logged, redacted, secret_in

# What new files are taken from; tracked files are taken wherever they are.
CODE = ("flows", "tasks", "rlhf", "profiles", "params.yaml", "dvc.yaml", "environment.json", "data/expectations")
FOLDERS = (*CODE, "data/champion")
_SECRET_NAMES = re.compile(r"(^|/)(\.env[^/]*|.*\.(pem|key|p12)|id_(rsa|ed25519|ecdsa)|credentials[^/]*|\.netrc)$")
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "preflow"), ("EMAIL", "preflow@localhost"))
}


AT_ONCE = 200
"""Commits whose files are in memory together."""
Files = Mapping[str, tuple[str, bytes]]
"""By path git's id of the bytes, and these."""


@dataclass(frozen=True)
class Snapshot:
    """A run's commit, by message `preflow run <run> [<label>]`."""

    ref: str
    commit: str
    left_out: tuple[str, ...]
    """Changed files that are not in it: they look like secrets, or git ignores them."""


def git(root: Path, *arguments: str, data: bytes | None = None, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a git command that runs no hook and refreshes no index.

    Raises:
        PreflowError: git failed; the message is git's.
    """
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=root,
        env={**_clean_environ(), "GIT_OPTIONAL_LOCKS": "0", **(env or {})},
        input=data if data is not None else b"",
        capture_output=True,
        check=False,
        process_group=0,  # a Ctrl-C in the terminal is for us alone
    )
    if done.returncode != 0:
        raise PreflowError(logged(f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}"))
    return done.stdout.decode("utf-8", "surrogateescape")


def _clean_environ() -> dict[str, str]:
    """Without what git sets for its own hooks and aliases, which would point us at another index or checkout."""
    own = ("GIT_DIR", "GIT_INDEX", "GIT_WORK", "GIT_OBJECT", "GIT_PREFIX")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def find_root(start: Path) -> Path:
    """The checkout that `start` lies in.

    Raises:
        PreflowError: no git checkout, no commit in it, or no dvc.yaml; one sentence each.
    """
    try:
        top = Path(git(start, "rev-parse", "--show-toplevel").strip()).resolve()
    except PreflowError as error:
        if "dubious ownership" in str(error):
            raise PreflowError(
                f"git does not trust {start}, as it belongs to another user; if that is meant: "
                f"git config --global --add safe.directory {_named(str(error)) or start.resolve()}"
            ) from None
        raise PreflowError(
            f"{start} is in no git checkout, and runs are kept as commits; `git clone` the project, or `git init` here"
        ) from None
    except FileNotFoundError:
        raise PreflowError("git is not installed, or not on the PATH") from None
    try:
        git(top, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except PreflowError:
        raise PreflowError(f"{top} has no commit yet; make one first: git add -A && git commit -m start") from None
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "dvc.yaml").exists():
            if folder != top:
                raise PreflowError(f"{folder} is not the top of its git checkout ({top}); preflow runs from there")
            return folder
        if folder == top:
            break
    raise PreflowError(f"{top} has no dvc.yaml; start preflow in a checkout of a preflow project")


def snapshot(
    root: Path,
    run: str,
    message: str,
    *,
    base: str = "HEAD",
    parent: str = "HEAD",
    extra: Mapping[str, bytes | None] | None = None,
) -> Snapshot:
    """Commit what a run starts from, or ends with, on `refs/preflow/runs/<run>`.

    Holds `base`, changed tracked files and new files under FOLDERS (only where `base` is HEAD), and `extra` by path
    (None: without that file). What looks like a secret is left out wherever it comes from. A run's last commit has its
    first as `parent`, which so stays reachable.
    """
    with _index(root, run, base) as env:
        taken, left_out = _changes(root, env) if base == "HEAD" else ([], [])
        if taken:
            git(root, "update-index", "--add", "--remove", "-z", "--stdin", data=_zero(taken), env=env)
        for path, content in (extra or {}).items():
            if content is None:
                git(root, "update-index", "--force-remove", "--", path, env=env)
                continue
            if secret_in(content.decode("utf-8", "replace")):
                left_out.append(path)
                continue
            _put(root, path, content, env)
        tree = git(root, "write-tree", env=env).strip()
        above = git(root, "rev-parse", parent).strip()
        commit = git(root, "commit-tree", tree, "-p", above, data=redacted(message).encode(), env=env).strip()
    ref = f"refs/preflow/runs/{run}"
    keep(root, ref, commit)
    return Snapshot(ref, commit, tuple(left_out))


def commit_on(root: Path, parents: Sequence[str], files: Mapping[str, bytes], message: str) -> str:
    """A commit of the tree of its first parent with these files in it; no ref points at it yet."""
    with _index(root, f"release-{secrets.token_hex(4)}", parents[0]) as env:
        for path, content in files.items():
            _put(root, path, content, env)
        tree = git(root, "write-tree", env=env).strip()
        above = [word for parent in parents for word in ("-p", parent)]
        return git(root, "commit-tree", tree, *above, data=redacted(message).encode(), env=env).strip()


def code(root: Path, leaving_out: Sequence[str] = ()) -> dict[str, str]:
    """Code and configuration as a run would take them now: git's object id by path. Nothing is kept."""
    with _index(root, f"look-{secrets.token_hex(4)}", "HEAD") as env:
        taken, _ = _changes(root, env)
        if taken:
            git(root, "update-index", "--add", "--remove", "-z", "--stdin", data=_zero(taken), env=env)
        listed = _split(git(root, "ls-files", "--stage", "-z", "--", *CODE, env=env))
    found = {path: about.split(" ")[1] for about, path in (line.split("\t", 1) for line in listed)}
    return {path: blob for path, blob in found.items() if path.partition("/")[0] not in leaving_out}


def edited(root: Path, run: str, taken: Snapshot) -> list[str]:
    """Code and configuration that are no longer what a snapshot holds."""
    with _index(root, run, taken.commit) as env:
        changed = _split(git(root, "diff", "--name-only", "--no-renames", "-z", "--", *CODE, env=env))
        new = _split(git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE, env=env))
    return sorted({*changed, *new} - set(taken.left_out))


def _put(root: Path, path: str, content: bytes, env: Mapping[str, str]) -> None:
    blob = git(root, "hash-object", "-w", "--stdin", data=content, env=env).strip()
    git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)


@contextmanager
def _index(root: Path, run: str, base: str) -> Iterator[dict[str, str]]:
    """Variables by which git works on an index of our own, filled from `base`."""
    index = home(root) / "tmp" / f"index-{run}"
    index.parent.mkdir(parents=True, exist_ok=True)
    index.unlink(missing_ok=True)
    env = {**_IDENTITY, "GIT_INDEX_FILE": str(index)}
    try:
        git(root, "read-tree", base, env=env)
        yield env
    finally:
        index.unlink(missing_ok=True)


def keep(root: Path, ref: str, commit: str) -> None:
    """Point a ref of ours at a commit."""
    if not ref.startswith("refs/preflow/"):
        raise PreflowError(f"{ref}: only refs under refs/preflow/ are ours")
    git(root, "update-ref", ref, commit)


def forget(root: Path, run: str) -> None:
    """Delete the ref of a run, if it has one."""
    for ref in git(root, "for-each-ref", "--format=%(refname)", f"refs/preflow/runs/{run}").splitlines():
        git(root, "update-ref", "-d", ref)


def runs(root: Path, label: str) -> list[str]:
    """Commits of the runs of this label (profile and settings) that this clone has, newest first."""
    lines = git(
        root, "for-each-ref", "--sort=-refname", "--format=%(objectname) %(contents:subject)", "refs/preflow/runs"
    ).splitlines()
    return [line.split(" ", 1)[0] for line in lines if line.endswith(f"[{label}]")]


def file_at(root: Path, commit: str, path: str) -> bytes | None:
    """A file's bytes in a commit; None where it has no such file."""
    try:
        return git(root, "cat-file", "blob", f"{commit}:{path}").encode("utf-8", "surrogateescape")
    except PreflowError:
        return None


def files_at(root: Path, commits: Sequence[str], paths: Sequence[str]) -> Iterator[Files | PreflowError]:
    """Of each commit, or ref, the files that it has, or why that can not be read; one process for hundreds of them."""
    for start in range(0, len(commits), AT_ONCE):
        some = commits[start : start + AT_ONCE]
        asked = "".join(f"{commit}:{path}\n" for commit in some for path in paths)
        said = git(root, "cat-file", "--batch", data=asked.encode()).encode("utf-8", "surrogateescape")
        at = 0
        for commit in some:
            found: dict[str, tuple[str, bytes]] = {}
            for path in paths:
                head, at = said[at : said.index(b"\n", at)].decode(), said.index(b"\n", at) + 1
                if not head.endswith(" missing"):
                    blob, _, size = head.split(" ")
                    found[path] = (blob, said[at : at + int(size)])
                    at += int(size) + 1
            yield _whole(root, commit, paths, found)


def _whole(root: Path, commit: str, paths: Sequence[str], found: Files) -> Files | PreflowError:
    """The files; git says "missing" too of what a commit has and the repository has lost."""
    if absent := [path for path in paths if path not in found]:
        try:
            if lost := git(root, "ls-tree", "--name-only", commit, "--", *absent).split():
                return PreflowError(f"git can not read {lost[0]} of {commit}")
        except PreflowError as error:
            return error
    return found


def _named(message: str) -> str:
    """The folder that git asks to be trusted."""
    return message.rpartition("safe.directory ")[2].strip() if "safe.directory " in message else ""


def _changes(root: Path, env: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Paths whose present state goes into a snapshot, and those that are kept out."""
    changed = _split(git(root, "diff", "--name-only", "--no-renames", "--ignore-submodules", "-z", "HEAD", env=env))
    staged = _split(git(root, "diff", "--cached", "--name-only", "--diff-filter=A", "-z", "HEAD"))
    new = _split(git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *FOLDERS, env=env))
    paths = sorted({*changed, *staged, *new})
    ignored = _ignored(root, [path for path in paths if (root / path).exists()])
    kept_out = {path for path in paths if path in ignored or _looks_secret(root, path)}
    return [path for path in paths if path not in kept_out], sorted(kept_out)


def _ignored(root: Path, paths: list[str]) -> set[str]:
    if not paths:
        return set()
    try:
        return set(_split(git(root, "check-ignore", "--no-index", "-z", "--stdin", data=_zero(paths))))
    except PreflowError:  # git's way to say that none is
        return set()


def _looks_secret(root: Path, path: str) -> bool:
    if _SECRET_NAMES.search(path):
        return True
    file = root / path
    return file.is_file() and secret_in(file.read_bytes().decode("utf-8", "replace")) is not None


def _zero(paths: Iterable[str]) -> bytes:
    return b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)


def _split(text: str) -> list[str]:
    return [path for path in text.split("\0") if path]
