"""`dvc://PATH?md5=DIGEST` as a source of MLflow data sets, found by its entry point `mlflow.dataset_source`.

run = mlflow.get_run(run_id)
folder = mlflow.data.get_source(run.inputs.dataset_inputs[0]).load()
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from mlflow.data.dataset_source import DatasetSource

from rlhf.errors import DependencyDown, PreflowError
from tasks.dvc_cache import link_folder, listing, object_path


class DvcSource(DatasetSource):
    """Bytes in a DVC cache or remote."""

    def __init__(self, path: str, md5: str) -> None:
        """`path` relative to dvc.yaml; `md5` as dvc.lock has it (32 digits, with ".dir" for a folder)."""
        self.path = path
        self.md5 = md5

    @property
    def uri(self) -> str:
        return f"dvc://{self.path}?md5={self.md5}"

    def load(self, dst_path: str | None = None) -> str:
        """Those very bytes, whatever the working tree holds now: a copy of the file or folder.

        They come from the cache of the DVC project that the working directory is in, fetched from its remote first
        where the cache lacks any.

        Args:
            dst_path: folder for the copy; a new temporary one by default.

        Returns:
            Where it is, below that folder, under its own name.

        Raises:
            PreflowError: the working directory is in no DVC project, or neither cache nor remote has all of it.
            DependencyDown: the remote did not answer.
        """
        cache = _complete_cache(self.path, self.md5)
        target = Path(dst_path or tempfile.mkdtemp(prefix="preflow-")) / Path(self.path).name
        if not self.md5.endswith(".dir"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(object_path(cache, self.md5)), target)
            return str(target)
        with tempfile.TemporaryDirectory() as links:
            link_folder(cache, self.md5, Path(links))
            shutil.copytree(links, target)
        return str(target)

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith("dvc://") and "?md5=" in raw_source

    @classmethod
    def _resolve(cls, raw_source: str) -> Self:
        parts = urlsplit(raw_source)
        return cls(parts.netloc + parts.path, parse_qs(parts.query)["md5"][0])

    def to_dict(self) -> dict[str, str]:
        return {"uri": self.uri}

    @classmethod
    def from_dict(cls, source_dict: dict[str, str]) -> Self:
        return cls._resolve(source_dict["uri"])


def _complete_cache(path: str, md5: str) -> Path:
    """The cache of the project around us, with all bytes of a digest in it."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        project = Repo()
    except NotDvcRepoError as error:
        raise PreflowError(f"{Path.cwd()} is in no DVC project: go to a clone of the one that made {path}") from error
    with project:
        cache = Path(project.cache.local.path).parents[1]
        if not _is_whole(cache, md5):
            if not project.config["core"].get("remote"):
                raise PreflowError(
                    f"the DVC cache lacks {path} (md5 {md5}) and no DVC remote is set: `dvc remote add -d NAME URL`"
                )
            try:
                project.cloud.pull([HashInfo("md5", md5)])  # of a folder this is its listing
                project.cloud.pull([HashInfo("md5", each) for each in listing(cache, md5).values()])
            except (DvcException, OSError) as error:
                raise DependencyDown(f"the DVC remote did not give {path} (md5 {md5}): {error}") from error
    if not _is_whole(cache, md5):
        raise PreflowError(f"neither the DVC cache nor its remote has all of {path} (md5 {md5}): was it never pushed?")
    return cache


def _is_whole(cache: Path, md5: str) -> bool:
    return all(object_path(cache, each) for each in (md5, *listing(cache, md5).values()))
