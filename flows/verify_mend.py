"""What `flows.verify` found, put right: from a good copy here, from the DVC remote, or by running the stage again."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from flows import dvc, objects
from flows.again import files_on_disk, md5_of
from flows.cache import object_path
from flows.reproduce_restore import outs_of, whole
from flows.verify import Found, Wrong, unlike, with_members
from rlhf.manifests import set_aside
from tasks.config import read_yaml
from tasks.graph import load_graph
from tasks.witness import folder_listing, folder_md5

Mended = dict[Wrong, str]
"""What was done about it; what is not among them is as wrong as before."""


def mend(root: Path, found: Found, say: Callable[[str], None]) -> Mended:
    """Put right what can be without running anything.

    The working copy first serves the cache, then the cache the working copy: a byte flipped in one of them is in both
    where they are links to one file. What neither has comes from the DVC remote, and is hashed before it counts.

    What is damaged is put aside and comes back where nothing better took its place.

    Raises:
        Busy: a run is going on.
        PreflowError: dvc.yaml is not usable, so DVC would restore nothing.
    """
    done: Mended = {}
    stages = load_graph(root).stages
    with objects.nobody_else(root, "verify --fix"), ExitStack() as aside:
        cache = dvc.cache(root)
        damaged = [one for one in found.wrong if one.kind == "object" and one.stage in stages]
        for one in damaged:
            if _from_working_copy(root, cache, one):
                done[one] = f"written anew from {one.out}"
            elif (path := object_path(cache, one.md5)) is not None:
                aside.enter_context(_put_aside(path))
        outputs = [one for one in found.wrong if one.kind == "output" and one.stage in stages]
        wanted = {one.out for one in damaged if one not in done}
        wanted |= {one.where for one in outputs if not whole(cache, one.md5)}
        _fetch(root, cache, sorted(wanted), say)
        for one in damaged:
            if one not in done and _is_good(cache, one.md5):
                done[one] = "fetched from the DVC remote"
        for one in outputs:
            if whole(cache, one.md5) and _restored(root, one):
                done[one] = "restored from the DVC cache"
        for one in found.wrong:
            if one.kind == "checkpoint":
                target = set_aside(root / one.where, one.why)
                done[one] = f"set aside as {target.name}: the stage goes on from the one before"
    return done


def to_run_again(root: Path, found: Found, done: Mended) -> list[Wrong]:
    """Outputs of today's stages that nothing here or on the remote has whole."""
    stages = load_graph(root).stages
    return [one for one in found.wrong if one.kind == "output" and one.stage in stages and one not in done]


def forget(root: Path, outputs: Sequence[Wrong]) -> None:
    """Take outputs away, so that the next run makes them anew: the copy, its damaged objects, what DVC remembers."""
    cache = dvc.cache(root)
    for one in outputs:
        _remove(root / one.where)
        _drop_damaged(cache, one.md5)
        objects.forget_runs(cache, {one.md5})


def nothing_else(root: Path, outputs: Sequence[Wrong]) -> bool:
    """Whether a run would do nothing but make these outputs: no parameter, code, input or other output has changed."""
    ours = tuple(f"{one.where} " for one in outputs)
    return all(reason.startswith(ours) for reasons in dvc.status(root).values() for reason in reasons)


def _from_working_copy(root: Path, cache: Path, one: Wrong) -> bool:
    """Write an object of the cache from the output in the working copy, where that still has the right bytes."""
    place, out = object_path(cache, one.md5), root / one.out
    if place is None:
        return False
    if one.md5.endswith(".dir"):
        listed: dict[str, str] = {}
        with suppress(OSError):  # a file that cannot be read
            listed = files_on_disk(out) if out.is_dir() else {}
        if folder_md5(listed) != one.md5:
            return False
        return _write(place, folder_listing(listed))
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    good = next((path for path in files if not unlike(path, one.md5)), None)
    return good is not None and _write(place, good.read_bytes())


def _write(place: Path, content: bytes) -> bool:
    """Under another name first: who reads it meets the old object or the new one."""
    draft = place.with_name(f".{place.name}.mending")
    draft.write_bytes(content)
    draft.chmod(0o444)
    os.replace(draft, place)
    return True


def _fetch(root: Path, cache: Path, outs: list[str], say: Callable[[str], None]) -> None:
    """Bring outputs from the DVC remote. What it cannot give stays away, and what it gives damaged is taken out."""
    if not outs or not objects.remotes(root):
        return
    say(f"fetching {', '.join(outs)} from the DVC remote …")
    dvc.call(root, "fetch", "--no-run-cache", *outs)
    lock = read_yaml(root / "dvc.lock").get("stages") or {}
    locked = {path: md5 for stage in lock for path, md5 in outs_of(lock, stage).items()}
    for out in outs:
        _drop_damaged(cache, locked[out])


def _drop_damaged(cache: Path, md5: str) -> None:
    """Of an output: its object, or those of a folder's files."""
    for each in with_members(cache, md5):
        if not _is_good(cache, each) and (path := object_path(cache, each)) is not None:
            path.unlink()


def _is_good(cache: Path, md5: str) -> bool:
    path = object_path(cache, md5)
    return path is not None and not unlike(path, md5.removesuffix(".dir"))


def _restored(root: Path, one: Wrong) -> bool:
    """With the damaged copy put aside: DVC would trust its time and leave it."""
    path = root / one.where
    with _put_aside(path):
        dvc.call(root, "checkout", "--force", "--quiet", one.where)
        if md5_of(path) != one.md5:
            _remove(path)
    return md5_of(path) == one.md5


@contextmanager
def _put_aside(path: Path) -> Iterator[None]:
    """Rename what is there; back again, however this ends, if by then nothing else is."""
    kept = path.with_name(f".{path.name}.damaged")
    if path.exists() or path.is_symlink():
        _remove(kept)
        path.rename(kept)
    try:
        yield
    finally:
        if path.exists():
            _remove(kept)
        elif kept.exists() or kept.is_symlink():
            kept.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
