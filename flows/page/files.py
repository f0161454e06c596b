"""Where the page of a run reads from: the tree the run worked in, or what is kept of it in git and the DVC cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from flows import dvc, workspace
from flows.cache import files_of, object_path


class Files(Protocol):
    """Files of one run, by their path in it."""

    def read(self, path: str) -> bytes | None:
        """Its bytes; None where there is no such file, or nobody has kept it."""

    def names(self, folder: str) -> list[str]:
        """Names of the files that lie in a folder."""


@dataclass(frozen=True)
class InTree:
    """A checkout, as it lies there."""

    root: Path

    def read(self, path: str) -> bytes | None:
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def names(self, folder: str) -> list[str]:
        place = self.root / folder
        return sorted(file.name for file in place.iterdir() if file.is_file()) if place.is_dir() else []


@dataclass(frozen=True)
class Kept:
    """The commit of a run, and of what its dvc.lock names whatever the DVC cache has."""

    root: Path
    commit: str
    digests: Mapping[str, str]
    """md5 by path of what the run wrote."""

    def read(self, path: str) -> bytes | None:
        file = self._cached(path)
        return file.read_bytes() if file else workspace.file_at(self.root, self.commit, path)

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in files_of(self._cache, self.digests.get(folder)) if "/" not in name)

    @cached_property
    def _cache(self) -> Path:
        return dvc.cache(self.root)

    def _cached(self, path: str) -> Path | None:
        if path in self.digests:
            return object_path(self._cache, self.digests[path])
        folder = next((one for one in self.digests if path.startswith(f"{one}/")), None)
        if folder is None:
            return None
        return files_of(self._cache, self.digests[folder]).get(path.removeprefix(f"{folder}/"))
