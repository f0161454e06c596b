"""Bring the raw data together: config and data/inbox/ in, data/01_raw/<kind>/ out.

Either the embedded world is written (`rlhf.world`), or files of the inbox are copied to the kinds they are good for:
those that `inputs` names, and what a run has brought to given/<kind>/. Shards dropped into data/inbox/<kind>/ always
join. Where each file came from, and which columns it calls by other names, is kept beside it, in origin.json.
Alone: python -m tasks.collect --params collect --inbox data/inbox --out data/01_raw
"""

import json
import shutil
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rlhf.errors import DataRefused
from rlhf.records import write_json
from tasks.config.collect import Collect
from tasks.config.withdraw import Withdraw
from tasks.graph import digest
from tasks.journal import Log
from tasks.readers import SUFFIXES
from tasks.shapes import KINDS
from tasks.stage import main
from tasks.withdrawn import blank

Origin = dict[str, Any]
NONE = Withdraw()


def collect(config: Collect, *, withdraw: Withdraw = NONE, inbox: Path, out: Path, log: Log) -> None:
    """Write the raw files of every kind, and origin.json beside them. Rows are not looked at here, unless some are
    withdrawn.

    Raises:
        DataRefused: a file of the inbox is absent, lies where it would not be read or is not what sources.json says,
            two files share a name, or the inbox was changed meanwhile.
    """
    began = _listing(inbox)
    sources = _sources(inbox)
    named = {entry.file for entry in config.inputs}
    _refuse_misfiled(inbox, {*sources, *named})
    _refuse_nested(inbox, named)
    origins: dict[str, dict[str, Origin]] = {kind: {} for kind in KINDS}
    if config.source == "world":
        from rlhf.world.generate import write_world

        write_world(out, seed=config.seed, **config.world.model_dump())
        for kind, file in _files_by_kind(out):
            origins[kind][file.name] = {"name": "world", "origin": "rlhf.world", "revision": f"seed {config.seed}"}
    for entry in config.inputs:
        for kind in entry.kinds:
            _take(inbox, entry.file, out / kind, origins[kind], sources)
    for kind in config.given():
        _take_given(inbox, kind, config, out / kind, origins[kind], sources)
    for kind, file in _files_by_kind(inbox):
        _take(inbox, f"{kind}/{file.name}", out / kind, origins[kind], sources, config.columns_of(kind))
    if config.chosen_as_demonstrations and not origins["demonstrations"]:
        _share(out, origins)
    if not any(origins.values()):
        raise DataRefused(
            "there is no data: name some (--set collect.preferences=FILE), drop files into data/inbox/<kind>/ "
            f"({', '.join(KINDS)}), or take that of the embedded world (--set collect.source=world)"
        )
    for kind in KINDS:
        for name, origin in origins[kind].items():
            blank(out / kind / name, kind, origin, withdraw)
        write_json(out / kind / "origin.json", origins[kind])
    _refuse_changed(inbox, began)
    log({f"collect/{kind}_files": len(origins[kind]) for kind in KINDS}, 0)


def _listing(inbox: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file, by its path; those being written under a name with a dot are not there."""
    files = {path.relative_to(inbox): path for path in inbox.rglob("*") if path.is_file()}
    seen = {name.as_posix(): path.stat() for name, path in files.items() if not name.name.startswith(".")}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in seen.items()}


def _refuse_changed(inbox: Path, began: dict[str, tuple[int, int]]) -> None:
    """DVC notes what lies in the inbox when the stage has ended: what came too late would count as read."""
    changed = sorted({name for name, _ in began.items() ^ _listing(inbox).items()})
    if changed:
        raise DataRefused(f"{inbox / changed[0]} was changed while {inbox} was read; run again, which reads it")


def _sources(inbox: Path) -> dict[str, Origin]:
    """What inbox/sources.json says of each file, by its path in the inbox."""
    listing = inbox / "sources.json"
    entries = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    about = ("name", "origin", "revision", "licence")
    return {
        name: {key: entry[key] for key in about} | {"sha256": sha256}
        for entry in entries
        for name, sha256 in entry["files"].items()
    }


def _refuse_misfiled(inbox: Path, known: set[str]) -> None:
    """Data that was meant to be read, and would not be, must not be passed over without a word."""
    for path in sorted(inbox.iterdir()) if inbox.is_dir() else []:
        loose = path.is_file() and path.name.endswith(SUFFIXES) and path.name not in (*known, "sources.json")
        near = get_close_matches(path.name, KINDS, n=1, cutoff=0.8) if path.is_dir() and path.name not in KINDS else []
        if loose or (near and not any(name.startswith(f"{path.name}/") for name in known)):
            hint = f"did you mean {near[0]}/?" if near else f"move it into a folder of its kind ({', '.join(KINDS)})"
            raise DataRefused(f"{path}: would not be read; {hint}, or name it in collect.inputs")


def _refuse_nested(inbox: Path, named: set[str]) -> None:
    """Of a folder of a kind only the files right in it are read."""
    for path in (path for kind in KINDS for path in sorted((inbox / kind).glob("*/**/*"))):
        inside = path.relative_to(inbox)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and path.name.endswith(SUFFIXES) and not hidden and inside.as_posix() not in named:
            raise DataRefused(
                f"{path}: would not be read; move it up to {inside.parts[0]}/, or name it in collect.inputs"
            )


def _take_given(
    inbox: Path, kind: str, config: Collect, folder: Path, origins: dict[str, Origin], sources: dict[str, Origin]
) -> None:
    """What collect.<kind> names; files of a folder get the name of the folder in front of their own."""
    given = inbox / "given" / kind
    files = sorted(
        file.relative_to(given) for file in given.rglob("*") if file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise DataRefused(f"{given} is empty, and collect.{kind} names files: `preflow run` brings them there")
    for file in files:
        name = "-".join(file.parts)
        _take(inbox, f"given/{kind}/{file.as_posix()}", folder, origins, sources, config.columns_of(kind), name)


def _share(out: Path, origins: dict[str, dict[str, Origin]]) -> None:
    """Preferences once more, as demonstrations: their chosen answers."""
    for name, origin in origins["preferences"].items():
        (out / "demonstrations").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "preferences" / name, out / "demonstrations" / name)
        origins["demonstrations"][name] = origin


def _take(
    inbox: Path,
    name: str,
    folder: Path,
    origins: dict[str, Origin],
    sources: dict[str, Origin],
    columns: dict[str, str] | None = None,
    as_name: str = "",
) -> None:
    path = inbox / name
    as_name = as_name or path.name
    if not path.is_file():
        raise DataRefused(f"{path}: no such file; collect.inputs names it")
    if not path.name.endswith(SUFFIXES):
        raise DataRefused(f"{path}: cannot be read; expected a name ending in {', '.join(SUFFIXES)}")
    if as_name in origins or as_name == "origin.json":
        raise DataRefused(f"{path}: another {folder.name} file has this name already; rename one of them")
    seen = digest(path)
    own = {"name": path.name.split(".")[0], "origin": f"inbox/{name}", "sha256": seen}
    origin = sources.get(name, own)
    if origin["sha256"] != seen:
        raise DataRefused(f"{path}: sha256 is {seen}, sources.json expects {origin['sha256']}; the file was changed")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / as_name)  # no link: DVC may make its outputs read-only
    origins[as_name] = origin | ({"columns": columns} if columns else {})


def _files_by_kind(root: Path) -> list[tuple[str, Path]]:
    folders: list[tuple[str, Path]] = [(kind, root / kind) for kind in KINDS]
    return [
        (kind, file)
        for kind, folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name != "origin.json"
    ]


if __name__ == "__main__":
    main(collect)
