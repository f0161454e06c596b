"""Files of the Hugging Face hub, by name and revision: the only place that opens a connection, and only when asked.

It is a process of its own, `python -m flows.hub WANTED` with WANTED as JSON, since everything else is told to stay
offline. What it fetches lies in the cache of the hub, and is not fetched twice; with HF_HUB_OFFLINE set by the user, or
without a network, what lies there is used. Only files that can be read are fetched: of a model its safetensors,
configuration and tokenizer, of a data set those of one split.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from flows.environment import OFFLINE
from rlhf.errors import DependencyDown, PreflowError
from tasks.readers import SUFFIXES

_NAME = re.compile(r"(?:hub:)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:]+))?(?::(?P<split>.+))?")
_SHARD = re.compile(r"-\d+(-of-\d+)?$")
MARK = "preflow answers "
_ABOUT_MODEL = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")


@dataclass(frozen=True)
class Wanted:
    """What a name asks for."""

    repo: str
    revision: str = "main"
    split: str = ""
    """Of a data set: `split`, or `config/split`."""
    kind: str = "dataset"
    """`model` or `dataset`."""
    code: bool = False
    """Whether Python files of a model come along."""


@dataclass(frozen=True)
class Fetched:
    """What there is of it on this machine."""

    folder: str
    revision: str
    """The commit."""
    files: tuple[str, ...]
    """Paths in the folder."""
    licence: str


def parse(text: str) -> Wanted | None:
    """`[hub:]org/name[@revision][:split]`; None where it is no such name. Without `hub:` an org is needed."""
    found = _NAME.fullmatch(text)
    if not found or ("/" not in found["repo"] and not text.startswith("hub:")):
        return None
    return Wanted(found["repo"], found["revision"] or "main", found["split"] or "")


def fetch(wanted: Wanted) -> Fetched:
    """Have the files on this machine; it is quick when they are there.

    Raises:
        DependencyDown: the hub does not answer, or must not be asked, and its cache does not have them.
        PreflowError: no such repository, revision or split, or no file in it that can be read; one sentence.
    """
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    asked = os.environ.get(OFFLINE, os.environ.get("HF_HUB_OFFLINE", "0"))
    env |= {"HF_HUB_OFFLINE": asked, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "flows.hub", json.dumps(asdict(wanted))],
        env=env,
        text=True,
        stdout=subprocess.PIPE,  # its standard error are progress bars, which a person should see
        check=False,
    )
    answer = _told(done.stdout)
    if "folder" in answer:
        return Fetched(**answer | {"files": tuple(answer["files"])})
    kind = DependencyDown if answer.get("down") else PreflowError
    raise kind(answer.get("reason") or f"fetching {wanted.repo} from the Hugging Face hub ended with {done.returncode}")


def _told(printed: str) -> dict[str, Any]:
    """The answer among what was printed: the one line that starts with its mark, as libraries print too."""
    lines = [line.removeprefix(MARK) for line in printed.splitlines() if line.startswith(MARK)]
    return dict(json.loads(lines[-1])) if lines else {}


def licence_of(folder: Path) -> str:
    """What the card of a model or data set states, else where to read about it."""
    card = _card(folder / "README.md")
    stated = card.get("license_name") or card.get("license")
    if stated:
        return ", ".join(stated) if isinstance(stated, list) else str(stated)
    own = sorted(path.name for path in folder.glob("LICENSE*"))
    return f"as its {own[0]} says" if own else "not stated"


def model_files(names: Iterable[str], code: bool = False) -> list[str]:
    """Of the files of a model those that loading it needs; no pickles, no second set of weights.

    Raises:
        PreflowError: there are no safetensors among them.
    """
    there = sorted(name for name in names if "/" not in name)
    weights = [name for name in there if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    weights = ["model.safetensors"] if "model.safetensors" in weights else weights
    if not weights:
        pickles = [name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        raise PreflowError(
            f"it has no weights as safetensors{f', only {pickles[0]}, which may run code when read' * bool(pickles)}: "
            "load it with transformers where you trust it, and save_pretrained writes model.safetensors"
        )
    patterns = (*_ABOUT_MODEL, "*.py") if code else _ABOUT_MODEL
    about = [name for name in there if any(fnmatch(name, pattern) for pattern in patterns)]
    return sorted({*weights, *about})


def split_files(names: Iterable[str], split: str, card: Mapping[str, Any]) -> list[str]:
    """Of the files of a data set those of a split, by what its card says, else by how they are named.

    Raises:
        PreflowError: it has no such split, the message lists those it has; or its card does not say which files.
    """
    readable = sorted(name for name in names if name.endswith(SUFFIXES))
    try:
        splits = _by_card(readable, card) or _by_name(readable)
    except (AttributeError, KeyError, TypeError):
        raise PreflowError(
            "its card (README.md) lists files without split or path: fetch it with `hf download` and name the files"
        ) from None
    if split in splits:
        return splits[split]
    ends = [name for name in splits if name.rpartition("/")[2] == (split or "train")]
    alone = list(splits) if not split and len(splits) == 1 else ends
    if len(alone) == 1:
        return splits[alone[0]]
    known = ", ".join(list(splits)[:12]) or "none that can be read (try the revision refs/convert/parquet)"
    raise PreflowError(
        f"it has {f'no split `{split}`' if split else 'several splits'}, name one after a colon: {known}"
    )


def _by_card(readable: Sequence[str], card: Mapping[str, Any]) -> dict[str, list[str]]:
    """{config/split: files}; the config named `default` needs no name. Raises what a card of no known form leads to."""
    found: dict[str, list[str]] = {}
    for config in card.get("configs") or ():
        name = str(config.get("config_name", "default"))
        listed = config.get("data_files")
        if isinstance(listed, str) or (isinstance(listed, list) and all(isinstance(one, str) for one in listed)):
            listed = [{"split": "train", "path": listed}]
        for entry in listed or ():
            paths = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
            files = [file for file in readable if any(fnmatch(file, path) for path in paths)]
            if files:
                found["/".join([name] * (name != "default") + [str(entry["split"])])] = files
    return found


def _by_name(readable: Sequence[str]) -> dict[str, list[str]]:
    """{folder/split: files}, with the shards of a split together: `data/train-00000-of-00002.parquet` is of `train`."""
    found: dict[str, list[str]] = {}
    for file in readable:
        path = PurePosixPath(file)
        stem = _SHARD.sub("", path.name.partition(".")[0])
        parts = [part for part in path.parts[:-1] if part not in ("data", "default")]
        found.setdefault("/".join(parts if stem.isdigit() else [*parts, stem]), []).append(file)
    return found


def _card(path: Path) -> dict[str, Any]:
    """The YAML at the head of a README.md."""
    from ruamel.yaml import YAML

    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = YAML(typ="safe").load(parts[1])
    except Exception:  # a card is for people; what cannot be read says nothing
        return {}
    return found if isinstance(found, dict) else {}


def _fetch(wanted: Wanted) -> Fetched:
    """In the process of its own."""
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()
    disable_progress_bars()
    about: dict[str, Any] = {"repo_type": wanted.kind, "local_files_only": constants.HF_HUB_OFFLINE}
    patterns = ["README.md", "LICENSE*"]
    folder = Path(snapshot_download(wanted.repo, **about, revision=wanted.revision, allow_patterns=patterns))
    commit = folder.name
    try:
        names = [one.path for one in get_cached_repo_tree(wanted.repo, repo_type=wanted.kind, revision=commit)]
    except CachedRepoTreeNotFoundError:  # a cache that an older client has filled
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if wanted.kind == "model":
        chosen = model_files(names, wanted.code)
    else:
        chosen = split_files(names, wanted.split, _card(folder / "README.md"))
    enable_progress_bars()
    snapshot_download(wanted.repo, **about, revision=commit, allow_patterns=chosen)
    return Fetched(str(folder), commit, tuple(chosen), licence_of(folder))


def _answer(wanted: Wanted) -> dict[str, Any]:
    import huggingface_hub.errors as errors
    from huggingface_hub import constants

    at = f"{constants.ENDPOINT}/{'datasets/' * (wanted.kind == 'dataset')}{wanted.repo}"
    try:
        return asdict(_fetch(wanted))
    except PreflowError as error:
        return {"reason": f"{at}: {error}"}
    except errors.GatedRepoError:
        return {"reason": f"{at} is gated: accept its terms there, and set HF_TOKEN to a token of yours"}
    except errors.RevisionNotFoundError:
        return {"reason": f"{at} has no revision {wanted.revision}"}
    except errors.RepositoryNotFoundError:
        return {"reason": f"{at} is not there, or not for everybody: check the name, or set HF_TOKEN"}
    except Exception as error:  # of a client that has changed its name before: no network, no answer, a full disk
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, and it is not in the cache of the hub"
        else:
            why = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        hint = f"hf download {wanted.repo}{' --repo-type dataset' * (wanted.kind == 'dataset')} --local-dir FOLDER"
        return {
            "down": True,
            "reason": f"{at} cannot be fetched ({why}): connect, or `{hint}` where there is a network and name FOLDER",
        }


if __name__ == "__main__":
    print("\n" + MARK + json.dumps(_answer(Wanted(**json.loads(sys.argv[1])))))
