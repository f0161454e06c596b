"""What a user names, `base.model` and `collect.preferences` and the like, as sources: found, fetched, held to a hash.

Each is a file, a folder or a name on the hub. As an entry of `sources` it goes into the run's own params.yaml, so the
run says of which bytes it was made, also where the name alone does not.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import hub
from flows.profiles import Resolved, with_sources
from flows.sources import tree_sha256
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.config.collect import GIVEN, Collect
from tasks.config.sources import Source
from tasks.readers import SUFFIXES

CHECKPOINT, FOLDER = "checkpoint", "given"
"""Where a model goes under data/inbox, and where data goes, by kind."""
_LOCAL = (".", "/", "~")
_HERE = "local "


def settle(root: Path, resolved: Resolved, say: Callable[[str], None]) -> Resolved:
    """The configuration with all that it names among its sources, after a look at whether it is there.

    Raises:
        PreflowError: something is not there, or is nothing that can be read; one sentence that names the key.
    """
    model, collect = _named(resolved.values)
    if not model and not collect:
        return resolved
    before = {source["target"]: Source.model_validate(source) for source in resolved.values.get("sources") or ()}
    taken = [CHECKPOINT] * bool(model) + [f"{FOLDER}/"] * bool(collect)
    kept = [source for target, source in before.items() if not target.startswith(tuple(taken))]
    if collect and not model:
        _refuse_alone(root, resolved, kept, collect)
    if resolved.under:
        say(
            f"a run with a model or data of its own, and no --profile: profile `{resolved.under}` lies under its "
            "settings, as the defaults are those of the embedded world"
        )
    found = [_model(root, model, resolved.values, before, say)] if model else []
    for kind, texts in collect.items():
        found += _data(root, kind, texts, before)
    for source in found:
        _refuse_changed(source, before.get(source.target))
    return with_sources(resolved, [*kept, *found])


def _named(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Sequence[str]]]:
    model = (values.get("base") or {}).get("model") or ""
    section = {kind: texts for kind, texts in (values.get("collect") or {}).items() if kind in GIVEN and texts}
    return model, Collect(source="inbox", **section).given() if section else {}


def _refuse_alone(
    root: Path, resolved: Resolved, sources: Sequence[Source], collect: Mapping[str, Sequence[str]]
) -> None:
    """Data without a model for it: the one that is made here knows the words of its corpus, and no others."""
    if (resolved.values.get("base") or {}).get("source", "scratch") == "scratch":
        known = "corpus" in collect
    else:
        lies_there = not resolved.label and (root / "data" / "inbox" / CHECKPOINT / "config.json").is_file()
        known = lies_there or any(source.target == CHECKPOINT for source in sources)
    if not known:
        raise ConfigError(
            f"collect.{next(iter(collect))} is data of your own, and the embedded model knows 200 words: name a model "
            "too, --set base.model=FOLDER or --set base.model=ORG/NAME"
        )


def _refuse_changed(source: Source, past: Source | None) -> None:
    """A run that is done again names the bytes it had."""
    same = past is not None and past.origin == source.origin and (past.revision == source.revision or _is_local(past))
    if past and same and past.sha256 != source.sha256:
        raise PreflowError(
            f"{source.name}: {source.path} has sha256 {source.sha256}, `sources` in params names {past.sha256}: it was "
            "changed since; bring that version back, or take the entry out of `sources`"
        )


def _is_local(source: Source) -> bool:
    return source.origin.startswith(_HERE)


def _model(
    root: Path, text: str, values: Mapping[str, Any], before: Mapping[str, Source], say: Callable[[str], None]
) -> Source:
    folder, wanted = _path(root, text), hub.parse(text)
    code = bool(values["base"].get("trust_remote_code"))
    if folder.exists() or not wanted or _means_path(root, text):
        source = _folder_of_model(folder, text, code)
    else:
        wanted = _pinned(replace(wanted, kind="model", code=code), before.get(CHECKPOINT))
        source = _of_hub("base.model", folder, text, wanted, CHECKPOINT)
        if not source.revision.startswith(wanted.revision):
            say(f"base.model {text} is at {source.revision} now; {wanted.repo}@{source.revision} keeps it there")
    if (values["base"].get("template") or "auto") == "auto" and not _has_template(Path(source.path)):
        say(
            f"base.model {source.name} brings no chat template: markers for user and assistant are added, which SFT "
            "has to teach it (base.template says how else)"
        )
    return source


def _folder_of_model(folder: Path, text: str, code: bool) -> Source:
    if not folder.is_dir():
        raise PreflowError(
            f"base.model={text}: there is no folder {folder}; give one with config.json, safetensors and a tokenizer, "
            "or a name on the Hugging Face hub (ORG/NAME, or hub:NAME, also where a folder here is called ORG)"
        )
    if not (folder / "config.json").is_file():
        raise PreflowError(
            f"base.model={text}: {folder} has no config.json, so it is no model in Hugging Face's layout"
        )
    try:
        files = hub.model_files((path.name for path in folder.iterdir() if path.is_file()), code)
    except PreflowError as error:
        raise PreflowError(f"base.model={text}: {error}") from None
    if not any(name.startswith(("tokenizer.", "vocab.", "spiece.")) for name in files):
        raise PreflowError(
            f"base.model={text}: {folder} has no tokenizer (tokenizer.json): copy that of the model there"
        )
    return _local(folder, folder.name, CHECKPOINT, files)


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    if not config.is_file():
        return False
    try:
        return bool(dict(json.loads(config.read_text(encoding="utf-8"))).get("chat_template"))
    except (ValueError, TypeError):
        raise PreflowError(f"{config} holds no JSON object: copy that of the model there") from None


def _data(root: Path, kind: str, texts: Sequence[str], before: Mapping[str, Source]) -> Iterator[Source]:
    taken: set[str] = set()
    for number, text in enumerate(texts, start=1):
        path, wanted, key = _path(root, text), hub.parse(text), f"collect.{kind}"
        if path.is_file() or path.is_dir():
            source = _local_data(path, key, _free(f"{FOLDER}/{kind}/{path.name}", number, taken))
        elif wanted and not _means_path(root, text):
            target = _free(f"{FOLDER}/{kind}/{wanted.repo.rpartition('/')[2]}", number, taken)
            source = _of_hub(key, path, text, _pinned(wanted, before.get(target)), target)
        else:
            other = f", or hub:{text} for that name on the Hugging Face hub" if wanted and text[0] not in _LOCAL else ""
            raise PreflowError(
                f"{key}={text}: there is no file {path}; check the path (relative ones start at {root}){other}"
            )
        taken.add(source.target)
        yield source


def _free(target: str, number: int, taken: Collection[str]) -> str:
    """The target, with the number of its text in front of its name where another text has it."""
    folder, _, name = target.rpartition("/")
    return f"{folder}/{number}-{name}" if target in taken else target


def _local_data(path: Path, key: str, target: str) -> Source:
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise PreflowError(f"{key}: {path} cannot be read; expected a name ending in {', '.join(SUFFIXES)}")
        return _local(path, path.name.partition(".")[0], target)
    files = sorted(
        name.as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.name.endswith(SUFFIXES)
        for name in [file.relative_to(path)]
        if not any(part.startswith(".") for part in name.parts)  # nor what an editor keeps, as in .ipynb_checkpoints
    )
    if not files:
        raise PreflowError(f"{key}: {path} holds no file whose name ends in {', '.join(SUFFIXES)}")
    return _local(path, path.name, target, files)


def _local(path: Path, name: str, target: str, files: Sequence[str] = ()) -> Source:
    """Where it lies on this machine goes no further than params: its origin is told by its name and its bytes."""
    sha256 = tree_sha256(path, files)
    return Source(
        name=name,
        origin=f"{_HERE}{path.name}",
        revision=sha256[:12],
        sha256=sha256,
        licence=hub.licence_of(path) if files else "not stated",
        path=str(path),
        target=target,
        files=tuple(files),
    )


def _of_hub(key: str, path: Path, text: str, wanted: hub.Wanted, target: str) -> Source:
    try:
        found = hub.fetch(wanted)
    except PreflowError as error:
        here = "" if text.startswith("hub:") else f"there is no {path} here, and "
        raise type(error)(f"{key}={text}: {here}{error}") from None
    origin = f"huggingface.co/{'datasets/' * (wanted.kind == 'dataset')}{wanted.repo}"
    return Source(
        name=wanted.repo,
        origin=f"{origin} {wanted.split}".strip(),
        revision=found.revision,
        sha256=tree_sha256(Path(found.folder), found.files),
        licence=found.licence,
        path=found.folder,
        target=target,
        files=found.files,
    )


def _pinned(wanted: hub.Wanted, before: Source | None) -> hub.Wanted:
    """At the commit that params name already, where the name itself leaves it open."""
    known = before is not None and before.origin.split(" ")[0].endswith(f"/{wanted.repo}")
    return replace(wanted, revision=before.revision) if before and known and wanted.revision == "main" else wanted


def _means_path(root: Path, text: str) -> bool:
    """Whether a text that names nothing here is meant as a path all the same: it starts like one, in a folder that is
    here, or ends like a file that is read. A mistyped path must not become a question to the hub."""
    if text.startswith("hub:"):
        return False
    return text.startswith(_LOCAL) or text.endswith(SUFFIXES) or (root / text.partition("/")[0]).is_dir()


def _path(root: Path, text: str) -> Path:
    try:
        return Path(root, Path(text).expanduser()).resolve()
    except RuntimeError:
        raise PreflowError(f"{text}: there is no such user's home; give the path in full") from None
