"""New data brought in before a retrain looks: shards of watched folders, and DVC imports that have moved.

A watched folder has a subfolder a kind, as data/inbox has. Its files are copied to data/inbox, new and changed ones;
one that goes away there stays, as a disk that is not mounted must not look like data that was withdrawn. Write a shard
under a name that starts with a dot and rename it when it is whole.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flows import dvc, guards
from rlhf.errors import DependencyDown, PreflowError
from tasks.config.collect import GIVEN
from tasks.graph import digest
from tasks.journal import home
from tasks.tracking.runs import write_json_atomically

IMPORTS = Path("data", "imports")
"""Watched always: `dvc import` and `dvc import-url` put their .dvc files here, and `dvc update` asks their origin."""


def update_imports(root: Path) -> None:
    """Ask the origin of each import.

    Raises:
        DependencyDown: one did not answer.
    """
    found = sorted(path.relative_to(root).as_posix() for path in (root / IMPORTS).rglob("*.dvc"))
    if found and (done := dvc.call(root, "update", "--quiet", *found)).returncode != 0:
        last = dvc.last_line(done.stderr)
        raise DependencyDown(f"`dvc update` of {IMPORTS} failed: {last}")


def bring(
    root: Path,
    watched: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    cancel: threading.Event | None = None,
) -> list[str]:
    """Bring what is new there, and in the imports, into data/inbox; the paths there that changed.

    One at a time in a project, as what was brought is written down in one book for all schedules, and not while a stage
    reads data/inbox.

    Raises:
        PreflowError: a watched folder is not there, or would overwrite a file that came from elsewhere.
    """
    with guards.inbox(root, "what brings new data", say, cancel):
        return _bring(root, watched)


def _bring(root: Path, watched: Sequence[str]) -> list[str]:
    folders = [root / Path(text).expanduser() for text in watched]
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise PreflowError(f"{absent[0]}: the watched folder is not there; mount it, or create the schedule again")
    brought: dict[Path, Path] = {}
    for folder in (*folders, root / IMPORTS):
        for file in _shards(folder):
            target = root / "data" / "inbox" / file.relative_to(folder)
            if target in brought:
                raise PreflowError(f"{file} and {brought[target]} are both called {target.name}: rename one")
            brought[target] = file
    book = home(root) / "brought.json"  # not in retrain/, where each file is the memory of one
    before = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    named = {target.relative_to(root / "data" / "inbox").as_posix(): target for target in brought}
    for name, target in named.items():
        _refuse_foreign(brought[target], target, before.get(name, ["", ""])[1])
    changed = [name for name, target in named.items() if _copy(brought[target], target)]
    after = before | {name: [str(brought[target]), digest(target)] for name, target in named.items()}
    if after != before:
        book.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(book, after)
    return changed


def _refuse_foreign(file: Path, target: Path, brought: str) -> None:
    """What lies at `target` is to be what was brought there last (its sha256; "": nothing was), or the same file."""
    if target.exists() and digest(target) not in (brought, digest(file)):
        raise PreflowError(f"{file} would overwrite {target}, which is not what was brought from there: rename one")


def _shards(folder: Path) -> Iterator[Path]:
    for kind in GIVEN:
        for file in sorted((folder / kind).glob("*")):
            if file.is_file() and not file.name.startswith(".") and file.suffix != ".dvc":
                yield file


def _copy(file: Path, target: Path) -> bool:
    """Whether there was something to copy; what is there is whole at any time."""
    if target.exists() and target.stat().st_size == file.stat().st_size and digest(target) == digest(file):
        return False
    partial = target.with_name(f".{target.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, partial)
    partial.replace(target)
    return True
