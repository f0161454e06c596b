"""Files among the artifacts of runs, read and added: by the file system where they are on it, else by MLflow."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.tracking.store import Store, folder_of


@contextmanager
def files(store: Store, run: str, folder: str, wanted: Callable[[str], bool] = bool) -> Iterator[list[Path]]:
    """The files in one folder of a run ("" for the top) whose names are wanted; they are only to be read.

    Those that somebody has deleted since are left out.
    """
    local = folder_of(store.database, run)
    if local is not None:
        there = sorted((local / folder).iterdir()) if (local / folder).is_dir() else []
        yield [path for path in there if path.is_file() and wanted(path.name)]
        return
    with TemporaryDirectory() as place:
        found = []
        for file in store.client.list_artifacts(run, folder or None):
            if not file.is_dir and wanted(file.path.rpartition("/")[2]):
                with suppress(Exception):  # stores raise what their libraries raise; a plot is worth no failed record
                    found.append(Path(store.client.download_artifacts(run, file.path, place)))
        yield found


def add(store: Store, run: str, paths: Iterable[Path], folder: str = "") -> None:
    """Copies of these files into one folder of a run, over what has their names."""
    local = folder_of(store.database, run)
    if local is not None:
        copy(paths, local / folder)
        return
    for path in paths:
        store.client.log_artifact(run, str(path), folder or None)


def copy(paths: Iterable[Path], folder: Path) -> None:
    """As they are, whatever had their names."""
    for path in paths:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
