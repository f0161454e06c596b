"""Bring in the data, or make it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section
from tasks.config.validate import Kind
from tasks.config.world import World


class Input(Section):
    """One file of data/inbox and what it is good for."""

    file: str = Field(min_length=1, description="path under data/inbox")
    kinds: tuple[Kind, ...] = Field(min_length=1, description="kinds of data to take from it")


class Collect(Section):
    """The `collect` section."""

    source: Literal["world", "inbox"] = Field(
        "world", description="`world` makes the embedded world; `inbox` takes the files of `inputs`"
    )
    seed: int = Field(0, ge=0, description="drives the embedded world and all its data, evaluation prompts too")
    inputs: tuple[Input, ...] = Field((), description="files of data/inbox, for source `inbox`")
    world: World = Field(default_factory=World, description="size of the embedded world")

    @model_validator(mode="after")
    def _inputs_fit(self) -> Self:
        if self.source == "world" and self.inputs:
            raise ValueError("inputs are read only with source: inbox (shards in data/inbox/<kind>/ always are)")
        return self
