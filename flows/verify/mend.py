"""What `preflow verify` found, put right: from a good copy here, from the DVC remote, or by running the stage again."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flows import dvc, objects, remote
from flows.again import files_on_disk, md5_of
from flows.cache import object_path
from flows.releases import releases
from flows.reproduce.restore import outs_of, whole
from flows.verify import inputs, verify
from flows.verify.files import unlike, with_members
from flows.verify.found import Found, Subject, Told, Wrong
from rlhf.errors import PreflowError
from rlhf.manifests import set_aside
from tasks.graph import Graph, load_graph
from tasks.witness import folder_listing, folder_md5


@dataclass
class Mending:
    """What was wrong when nobody else was at work, and what was done about it."""

    found: Found
    done: dict[Wrong, str] = field(default_factory=dict)
    """What is not among them is as wrong as before."""
    forgotten: list[Wrong] = field(default_factory=list)
    """Outputs that were taken away, as nothing has them whole: their stages are to be run again."""


def mend(root: Path, run: str, told: Told, say: Callable[[str], None]) -> Mending:
    """Look once more, now that no run can begin, and put right what can be without running anything.

    The working copy first serves the cache, then the cache the working copy: a byte flipped in one of them is in both
    where they are links to one file. What neither has comes from the DVC remote, and is hashed before it counts.

    What is damaged is put aside and comes back where nothing better took its place.

    Raises:
        Busy: a run is going on.
        PreflowError: dvc.yaml is not usable, so DVC would restore nothing.
    """
    graph = load_graph(root)
    with objects.nobody_else(root, "verify --fix"):
        subject = verify.subject(root, run)
        this = Mending(verify.look(root, subject, told))
        with ExitStack() as aside:
            _mend_data(root, subject, graph, this, aside, say)
        for one in this.found.wrong:
            if one.kind == "checkpoint":
                target = set_aside(root / one.where, one.why)
                this.done[one] = f"set aside as {target.name}: the stage goes on from the one before"
        if damaged := [one for one in this.found.wrong if one.kind == "input"]:
            mended = inputs.bring_again(root, subject, damaged, say)
            this.done |= dict.fromkeys(mended, "brought again from its source")
        lost = [one for one in this.found.wrong if _is_ours(root, graph, one) and one not in this.done]
        if lost and nothing_else(root, lost):
            _forget(root, lost)
            this.forgotten = lost
        elif lost:
            names = ", ".join(one.where for one in lost)
            say(f"parameters, code or inputs have changed: remove {names}, and `preflow run` makes that with them")
    return this


def _mend_data(
    root: Path, subject: Subject, graph: Graph, this: Mending, aside: ExitStack, say: Callable[[str], None]
) -> None:
    """Objects of the cache, and outputs in the working copy."""
    cache, done = dvc.cache(root), this.done
    damaged = [one for one in this.found.wrong if one.kind == "object"]
    for one in damaged:
        if _from_working_copy(root, cache, one):
            done[one] = f"written anew from {one.out}"
        elif (path := object_path(cache, one.md5)) is not None:
            aside.enter_context(_put_aside(path))
    outputs = [one for one in this.found.wrong if _is_ours(root, graph, one)]
    wanted = {one.where: one.md5 for one in outputs if not whole(cache, one.md5)}
    for one in damaged:
        if one not in done and one.stage in subject.lock:
            wanted[one.out] = outs_of(subject.lock, one.stage)[one.out]
        elif one not in done:  # of a version that another run has made
            _fetch(root, cache, one.stage, {one.out: releases.find(root, one.stage).digests[one.out]}, say)
    _fetch(root, cache, "" if subject.is_here else subject.name, wanted, say)
    for one in damaged:
        if one not in done and _is_good(cache, one.md5):
            done[one] = "fetched from the DVC remote"
    for one in outputs:
        if whole(cache, one.md5) and _restored(root, one):
            done[one] = "restored from the DVC cache"


def _is_ours(root: Path, graph: Graph, one: Wrong) -> bool:
    """Whether it is an output that DVC would delete too: today's dvc.yaml says that this stage writes it, below here.

    dvc.lock may have come from anywhere, and may name anything.
    """
    stage = graph.stages.get(one.stage)
    return (
        one.kind == "output"
        and stage is not None
        and one.where in stage.outs
        and (root / one.where).parent.resolve().is_relative_to(root.resolve())
    )


def _forget(root: Path, outputs: Sequence[Wrong]) -> None:
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


def _fetch(root: Path, cache: Path, of: str, outs: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Bring outputs of a run or version ("" for what the checkout has) from the DVC remote, by path with their md5.

    What it cannot give stays away, and what it gives damaged is taken out.
    """
    if not outs or not objects.remotes(root):
        return
    if of:
        try:
            remote.fetch(root, releases.find(root, of).told(), list(outs), say)
        except PreflowError as error:
            say(str(error))
    else:
        say(f"fetching {', '.join(sorted(outs))} from the DVC remote …")
        dvc.call(root, "fetch", "--no-run-cache", *sorted(outs))
    for md5 in outs.values():
        _drop_damaged(cache, md5)


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
