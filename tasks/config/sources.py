"""What a run brings in from outside, before its first stage: named by public origin, held to a hash."""

from pathlib import PurePosixPath

from pydantic import Field, field_validator

from tasks.config import Section


class Source(Section):
    """One entry of the `sources` list: a file or a folder, linked or copied into data/inbox."""

    name: str = Field(min_length=1, description="name that reports carry")
    origin: str = Field(min_length=1, description="where it is published, with the path there")
    revision: str = Field(min_length=1, description="commit or version at the origin")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="of the file; of a folder: of its lines `sha256  path`, sorted by path"
    )
    licence: str = Field(min_length=1, description="SPDX name of its licence")
    path: str = Field(
        min_length=1, description="where a copy lies under $PREFLOW_SHARED (default: ../shared); or a full path"
    )
    target: str = Field(min_length=1, description="where it goes under data/inbox")
    files: tuple[str, ...] = Field((), description="of a folder, those to take; empty: all")

    @field_validator("path", "target")
    @classmethod
    def _climbs_nowhere(cls, value: str) -> str:
        if ".." in PurePosixPath(value).parts:
            raise ValueError("must be a path without `..`")
        return value

    @field_validator("target", "files")
    @classmethod
    def _stays_inside(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in (value,) if isinstance(value, str) else value:
            path = PurePosixPath(one)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError("must be relative, without `..`")
        return value
