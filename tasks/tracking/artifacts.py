"""Files among the artifacts of runs, read and added: by the file system where they are on it, else by MLflow.

What is added has its SHA-256 noted at that moment, in `Store.sums`; `seal` puts the list among the artifacts of the
pipeline's run. Its names are those of the folder that holds the artifacts of all runs (`mlruns/artifacts`).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks import sums
from tasks.graph import digest
from tasks.tracking.boundary import sentence
from tasks.tracking.store import Store, folder_of

SEALED = "preflow.sums"
"""Tag of a run whose artifacts hold such a list: without it, none was ever written."""


@contextmanager
def files(
    store: Store, run: str, folder: str, wanted: Callable[[str], bool] = bool, missed: dict[str, str] | None = None
) -> Iterator[list[Path]]:
    """The files in one folder of a run ("" for the top) whose names are wanted; they are only to be read.

    Those that somebody has deleted since are left out, and those that could not be fetched: why, by name, is put into
    `missed`.
    """
    local = folder_of(store.database, run)
    if local is not None:
        there = sorted((local / folder).iterdir()) if (local / folder).is_dir() else []
        yield [path for path in there if path.is_file() and wanted(path.name)]
        return
    with TemporaryDirectory() as place:
        found = []
        for file in store.client.list_artifacts(run, folder or None):
            name = file.path.rpartition("/")[2]
            if not file.is_dir and wanted(name):
                try:
                    found.append(Path(store.client.download_artifacts(run, file.path, place)))
                except Exception as error:  # stores raise what their libraries raise; a plot is worth no failed record
                    if missed is not None:
                        missed[name] = sentence(error)
        yield found


def add(store: Store, run: str, paths: Iterable[Path], folder: str = "") -> None:
    """Copies of these files into one folder of a run, over what has their names."""
    local = folder_of(store.database, run)
    for path in paths:
        note(store, run, [path], folder)
        if local is None:
            store.client.log_artifact(run, str(path), folder or None)
            continue
        (local / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, local / folder / path.name)


def add_text(store: Store, run: str, text: str, path: str) -> None:
    """A file with this text, over what has its name."""
    store.sums[name_in(run, path)] = sums.of_text(text)
    store.client.log_text(run, text, path)


def note(store: Store, run: str, paths: Iterable[Path], folder: str = "") -> None:
    """What files in a folder of a run hold that is written this very moment."""
    for path in paths:
        store.sums[name_in(run, f"{folder}/{path.name}" if folder else path.name)] = digest(path)


def seal(store: Store, parent: str) -> None:
    """Write the list of all that was noted into the run that is the parent of the others."""
    local = folder_of(store.database, parent)
    if local is None:
        store.client.log_text(parent, sums.as_text(store.sums), sums.SUMS)
        return
    local.mkdir(parents=True, exist_ok=True)
    sums.write(local, store.sums)


def name_in(run: str, path: str) -> str:
    """What the list calls an artifact: where MLflow keeps it below the folder of all runs."""
    return f"{run}/artifacts/{path}"
