"""A folder that a run and its workers both reach: `preflow` beside the objects of the DVC remote, or a URL of its own.

fsspec opens it: a path, `s3://`, `gs://`, `ssh://` and whatever else it has a driver for. Readers check by digest what
they get, so no rename and no lock is needed.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from flows import dvc, objects
from rlhf.errors import DependencyDown, PreflowError
from tasks.redact import address, redacted

VARIABLE = "PREFLOW_EXCHANGE"


class Exchange:
    """Files by name; names are relative, with `/` between folders. What the storage refuses is DependencyDown."""

    def __init__(self, url: str) -> None:
        """Raises PreflowError where fsspec has no driver for it."""
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            why = redacted(str(error))
            raise PreflowError(
                f"the exchange {address(url)} cannot be opened: {why}; {VARIABLE} names another"
            ) from None
        self.url = address(url)
        """For people: without a name or a password."""

    def put(self, name: str, data: bytes) -> None:
        """Write, or write anew."""
        path = self._path(name)
        self._do(lambda: (self._fs.makedirs(path.rpartition("/")[0], exist_ok=True), self._fs.pipe_file(path, data)))

    def send(self, source: Path, name: str) -> None:
        """As `put`, from a file of any size."""
        path = self._path(name)
        self._do(lambda: (self._fs.makedirs(path.rpartition("/")[0], exist_ok=True), self._fs.put_file(source, path)))

    def get(self, name: str) -> bytes | None:
        """None where there is no such file."""
        try:
            return bytes(self._do(lambda: self._fs.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path) -> bool:
        """As `get`, into a file; False where there is no such file."""
        try:
            self._do(lambda: self._fs.get_file(self._path(name), str(target)))
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, files and folders, without what they lie in."""
        path = self._path(folder)
        self._fs.invalidate_cache()
        try:
            found = self._do(lambda: self._fs.ls(path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in found)

    def remove(self, name: str) -> None:
        """A file, or a folder with all in it; nothing where it is gone."""
        with suppress(FileNotFoundError):
            self._do(lambda: self._fs.rm(self._path(name), recursive=True))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _do(self, what: Any) -> Any:
        try:
            return what()
        except FileNotFoundError:
            raise
        except Exception as error:  # of whatever library the storage has
            why = redacted(f"{type(error).__name__}: {error}")
            raise DependencyDown(f"the exchange {self.url} did not do it: {why}") from None


@cache
def exchange_of(root: Path) -> Exchange:
    """That of a checkout, which DVC is asked for once.

    Raises:
        PreflowError: it has no default DVC remote, or one that fsspec cannot open.
    """
    remote = objects.remotes(root).get(dvc.default_remote(root))
    if remote is None:
        raise PreflowError(
            f"{root} has no default DVC remote, by which a run and its workers exchange data: "
            "`dvc remote add --local --default NAME URL` names one"
        )
    return Exchange(os.environ.get(VARIABLE) or f"{str(remote).rstrip('/')}/preflow")
