"""`dvc://PATH?md5=DIGEST` as a source of MLflow data sets. Importing this module registers it."""

from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source


class DvcSource(DatasetSource):
    """Bytes in a DVC cache or remote."""

    def __init__(self, path: str, md5: str) -> None:
        """`path` relative to dvc.yaml; `md5` as dvc.lock has it (32 digits, with ".dir" for a folder)."""
        self.path = path
        self.md5 = md5

    @property
    def uri(self) -> str:
        return f"dvc://{self.path}?md5={self.md5}"

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self) -> Any:
        """The path, if the working tree has it: `dvc checkout` brings what dvc.lock names."""
        return self.path

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


register_dataset_source(DvcSource)
