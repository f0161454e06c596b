"""What lies in data/inbox and is damaged, brought again from its source, where params say which, and of which SHA-256.

dvc.lock has one digest of the whole folder: only what makes that come out right is put in place.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import hub, sources
from flows.again import ignored, md5_of
from flows.verify.found import Subject, Wrong
from flows.workspace import file_at
from rlhf.errors import PreflowError
from tasks.config.sources import Source
from tasks.graph import digest
from tasks.witness import file_md5, folder_md5

INBOX = Path("data/inbox")
_LISTING = "sources.json"
_HUB = "huggingface.co/"


def bring_again(root: Path, subject: Subject, damaged: Sequence[Wrong], say: Callable[[str], None]) -> Iterator[Wrong]:
    """Put right what can be of these inputs, and say what to do about the others; yields what is as it was locked."""
    wanted = _named(root, subject)
    for one in damaged:
        if not (root / one.where).resolve().is_relative_to((root / INBOX).resolve()):
            kept = f"`git restore --source {subject.commit[:12] or 'HEAD'} -- {one.where}` takes it from there"
            say(f"{one.where}: git keeps what a run read there; {kept}, or `preflow run` goes on with what it is now")
        elif _is_whole(root, one) or any(_brought(root, some, one, say) for some in _choices(root, wanted)):
            yield one
        else:
            say(
                f"{one.where}: no source that params name has what is damaged; put the files that you gave there once "
                "more, or, if you have changed them, `preflow run` goes on with what they are now"
            )


def _is_whole(root: Path, one: Wrong) -> bool:
    """What was brought for another may have done it: the folder in the folder."""
    try:
        return md5_of(root / one.where) == one.md5
    except OSError:  # a bad sector
        return False


def _named(root: Path, subject: Subject) -> list[Source]:
    """The sources of the run, by its own params; of a checkout that no run speaks of, by those that lie there."""
    at = file_at(root, subject.commit, "params.yaml") if subject.commit else None
    try:
        values = YAML(typ="safe").load((at or (root / "params.yaml").read_bytes()).decode()) or {}
        return [Source.model_validate(one) for one in values.get("sources") or ()]
    except (OSError, ValueError, YAMLError, AttributeError):
        return []


def _choices(root: Path, wanted: Sequence[Source]) -> Iterator[Sequence[Source]]:
    """First those of which a file is another than sources.json says; then all, as that may be what is damaged."""
    try:
        listed = json.loads((root / INBOX / _LISTING).read_text(encoding="utf-8"))
        changed = {entry["name"] for entry in listed if any(_differs(root, *file) for file in entry["files"].items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        changed = set()
    if some := [source for source in wanted if source.name in changed]:
        yield some
    if wanted:
        yield wanted


def _differs(root: Path, name: str, sha256: str) -> bool:
    try:
        return digest(root / INBOX / name) != sha256
    except OSError:
        return True


def _brought(root: Path, some: Sequence[Source], one: Wrong, say: Callable[[str], None]) -> bool:
    """Whether these sources, brought again, made an input what dvc.lock says. They are held to their SHA-256."""
    inbox, shared = root / INBOX, sources.shared_folder(root)
    with TemporaryDirectory(dir=inbox.parent, prefix=".tmp-inbox-") as folder:
        try:
            sources.bring([_there(source, shared, say) for source in some], Path(folder), shared)
        except (PreflowError, OSError) as error:
            say(f"{one.where} was not brought again: {error}")
            return False
        fresh = {inbox / path.relative_to(folder): path for path in Path(folder).rglob("*") if path.is_file()}
        alone = {path: new for path, new in fresh.items() if path != inbox / _LISTING}  # that may be of more than these
        return any(_put(root / one.where, files, one.md5) for files in (fresh, alone))


def _there(source: Source, shared: Path, say: Callable[[str], None]) -> Source:
    """A source of the hub, fetched once more where its copy is gone."""
    folder = shared / source.path
    if not source.origin.startswith(_HUB) or all((folder / name).exists() for name in source.files or ("",)):
        return source
    say(f"fetching {source.name} at {source.revision} from {source.origin} …")
    origin, _, split = source.origin.removeprefix(_HUB).partition(" ")
    kind = "dataset" if origin.startswith("datasets/") else "model"
    code = any(name.endswith(".py") for name in source.files)
    fetched = hub.fetch(hub.Wanted(source.name, source.revision, split, kind, code))
    return source.model_copy(update={"path": fetched.folder})


def _put(path: Path, fresh: Mapping[Path, Path], md5: str) -> bool:
    """Replace what differs, if with that the input has this digest; else nothing is touched."""
    ours = {file: new for file, new in fresh.items() if file == path or file.is_relative_to(path)}
    if not ours:
        return False
    if path.is_dir():
        digests = {file.relative_to(path).as_posix(): file_md5(new) for file, new in ours.items()}
        hidden = ignored(path) | digests.keys()
        others = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        try:
            digests |= {name: file_md5(file) for name, file in others.items() if name not in hidden}
        except OSError:  # a bad sector under what no source has
            return False
        now = folder_md5(digests)
    else:
        now = file_md5(ours[path])
    if now != md5:
        return False
    for file, new in ours.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, file)
    return True
