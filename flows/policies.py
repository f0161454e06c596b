"""Policies by name: a folder, or a version of a registered model, brought back from the DVC cache where need be."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import dvc, remote, workspace
from flows.cache import files_of, link_folder
from flows.releases import releases
from flows.releases.refs import CHAMPION, Model, model_named
from rlhf.errors import PreflowError
from tasks import tracking
from tasks.lineage import read_tree

if TYPE_CHECKING:
    from rlhf.models import Policy


@dataclass(frozen=True)
class Found:
    """A policy that lies in a folder."""

    name: str
    """What a reader calls it: "policy v3", or the folder as it was given."""
    folder: Path
    root: Path | None = None
    """The project it comes from; None where it is a folder outside any."""
    version: Mapping[str, Any] = field(default_factory=dict)
    """What the registry says of it (`tasks.tracking.version`); empty for a folder."""


@contextmanager
def opened(text: str, say: Callable[[str], None]) -> Iterator[Found]:
    """The policy that `text` names: a folder, `NAME`, `NAME@alias` or `NAME/3`; "" is the champion of this project.

    Weights of a registered one are links into the DVC cache, which go away at the end; what the cache does not have is
    fetched from the DVC remote by the git ref of its run.

    Raises:
        PreflowError: no such policy, or its weights are nowhere; DependencyDown: the registry did not answer.
    """
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise PreflowError(f"{text} holds no policy: it has no config.json; stages keep theirs in `policy/`")
        if (folder / "head.json").is_file():
            raise PreflowError(
                f"{text} is a reward model, not a policy; name a `policy/` of a stage, as data/05_sft/policy"
            )
        yield Found(text.rstrip("/"), folder.resolve(), _root_of(folder))
        return
    model = model_named(text)
    if text and model is None:
        raise PreflowError(f"{text}: no such folder; name one, or a registered model as NAME, NAME@champion or NAME/3")
    root = workspace.find_root(Path.cwd())
    model = model or Model(releases.registry(root))
    version = version_of(root, model.name, model.number, model.alias)
    with tempfile.TemporaryDirectory(prefix="preflow-policy-") as scratch:
        restore(root, version, Path(scratch, "policy"), say)
        folder, label = Path(scratch, "policy"), f"{model.name} v{version['version']}"
        yield Found(label, folder, root, {**version, "name": model.name})


def version_of(root: Path, name: str, number: int | None, alias: str = CHAMPION) -> Mapping[str, Any]:
    """A version as MLflow's registry tells of it; where that has none or does not answer, as the git refs do.

    Raises:
        PreflowError: neither knows it; the message is the registry's. DependencyDown: nor did that answer.
    """
    try:
        return tracking.version(root, name, number, alias)
    except PreflowError:
        with suppress(PreflowError):
            return releases.find(root, f"{name}@{alias}" if number is None else f"{name}/{number}").told()
        raise


def loaded(found: Found) -> "Policy":
    """The policy in memory. Raises PreflowError where its folder cannot be read, or brings code of unknown origin."""
    from rlhf.models import load_policy

    try:
        own_code = "auto_map" in json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
        if own_code and not found.version and not stage_out(found):
            raise PreflowError(
                f"{found.name} brings code, and no stage of this project wrote it: train from it with "
                "base.trust_remote_code=true, or name a registered policy"
            )
        return load_policy(found.folder)
    except (ValueError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise PreflowError(f"{found.name}: {first}") from None


def restore(root: Path, version: Mapping[str, Any], target: Path, say: Callable[[str], None]) -> None:
    """Put links to a version's files at `target`, fetched first where the DVC cache lacks any."""
    path = version["path"]
    remote.fetch(root, {**version, "digests": {**version["digests"], path: version["md5"]}}, [path], say)
    if not link_folder(dvc.cache(root), version["md5"], target):
        raise PreflowError(f"{path} of {version['ref']} is no folder in the DVC cache")


def file_of(found: Found, path: str) -> bytes | None:
    """A file that the run of a policy wrote, of its project or out of the DVC cache; None where there is none."""
    if found.root is None:
        return None
    if not found.version:
        return (found.root / path).read_bytes() if (found.root / path).is_file() else None
    digests = found.version["digests"]
    folder = next((one for one in digests if path.startswith(f"{one}/")), None)
    if folder is None:
        return None
    cache = dvc.cache(found.root)
    kept = files_of(cache, digests[folder]).get(path.removeprefix(f"{folder}/"))
    return kept.read_bytes() if kept else None


def stage_out(found: Found) -> str:
    """The path by which dvc.lock knows a folder as what a stage of its project wrote; "" where it does not.

    The folder itself may lie elsewhere, behind a link.
    """
    if found.root is None:
        return ""
    outs = read_tree(found.root).digests()
    return next((path for path in outs if (found.root / path).resolve() == found.folder), "")


def _root_of(folder: Path) -> Path | None:
    """By the place where it was named: an out of a stage may be a link that leads out of the checkout."""
    try:
        return workspace.find_root(folder.absolute().parent)
    except PreflowError:
        return None
