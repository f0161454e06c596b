"""What versions and runs are called, by people and in git, and the git remote that has them too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.workspace import git
from rlhf.errors import DependencyDown, PreflowError

CHAMPION = "champion"
RUNS = "runs"
"""Below refs/preflow/; so no model can have this name."""
QUIET = {  # nobody is there to be asked, and a remote that says nothing for a minute has gone
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=20",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}
_MODEL = re.compile(r"(?:models:/)?(?P<name>[^@/\s]+)(?:@(?P<alias>[^@/\s]+)|/v?(?P<version>\d+))?")
_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True)
class Model:
    """A registered model as people name it."""

    name: str
    number: int | None = None
    alias: str = CHAMPION
    """Which version, where it has no number."""


def is_run(name: str) -> bool:
    """Whether a run has such a name; `preflow compare` keeps what its cells begin with among them meanwhile."""
    return _RUN.fullmatch(name) is not None


def model_named(text: str) -> Model | None:
    """`NAME`, `NAME@champion`, `NAME/3` or `NAME/v3`, also behind MLflow's `models:/`; None where it is none."""
    match = _MODEL.fullmatch(text)
    if match is None:
        return None
    return Model(match["name"], int(match["version"]) if match["version"] else None, match["alias"] or CHAMPION)


def ref_of(text: str) -> str:
    """The ref that a model, a run or a ref of ours has in this clone. Raises PreflowError where it is none of them."""
    if text.startswith("refs/preflow/"):
        return text
    if is_run(text):
        return f"refs/preflow/{RUNS}/{text}"
    model = model_named(text)
    if model is None:
        raise PreflowError(f"{text}: expected a model (NAME, NAME@champion, NAME/3), a run, or a ref of refs/preflow/")
    return ref_named(model.name, model.alias if model.number is None else f"v{model.number}")


def ref_named(name: str, last: str) -> str:
    """Of a version or alias of a model."""
    if name == RUNS:
        check_name(name)
    return f"refs/preflow/{name}/{last}"


def theirs_of(ref: str) -> str:
    """Where `fetch` puts what the remote has under a ref."""
    return ref.replace("refs/preflow/", "refs/preflow-remote/", 1)


def seen_of(name: str) -> str:
    """The remote's champion as this clone last sent it, or was told of it when it was about to replace it."""
    return f"refs/preflow-seen/{name}/{CHAMPION}"


def commit_at(root: Path, ref: str) -> str | None:
    """None where this clone has no such ref."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except PreflowError:
        return None


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


def fetch(root: Path) -> str:
    """Bring what the git remote has of runs and versions; returns its name, "" where there is no remote.

    Raises:
        DependencyDown: it did not answer.
    """
    remote = remote_of(root)
    if remote:
        which = "+refs/preflow/*:refs/preflow-remote/*"
        try:
            git(root, "fetch", "--quiet", "--prune", "--no-tags", remote, which, env=QUIET)
        except PreflowError as error:
            raise DependencyDown(f"the git remote {remote} did not answer: {last_line(error)}") from None
    return remote


def last_line(error: PreflowError) -> str:
    """What git said in the end."""
    return str(error).strip().splitlines()[-1]
