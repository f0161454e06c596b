"""Bring in the data, or make it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.config import Section
from tasks.config.validate import Kind
from tasks.config.world import World

GIVEN = ("corpus", "demonstrations", "preferences", "prompts", "eval", "ratings")
"""Kinds of data that a user can name files for."""

OURS = (
    *("messages", "system", "prompt", "instruction", "input", "question"),
    *("completion", "output", "response", "chosen", "rejected", "completions", "ranks", "scores", "label", "text"),
    *("answer", "verifier", "constraints", "tests", "margin", "score_chosen", "score_rejected", "confidence", "turn"),
    *("annotator", "group", "source", "origin", "pool", "set", "meta"),
)
"""Names that readers know, which a file may have under others."""

Given = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]


class Input(Section):
    """One file of data/inbox and what it is good for."""

    file: str = Field(min_length=1, description="path under data/inbox")
    kinds: tuple[Kind, ...] = Field(min_length=1, description="kinds of data to take from it")


class Collect(Section):
    """The `collect` section."""

    source: Literal["world", "inbox"] = Field(
        "world", description="`world` makes the embedded world; `inbox` takes your own data"
    )
    seed: int = Field(0, ge=0, description="drives the embedded world and all its data, evaluation prompts too")
    corpus: Given = Field(
        (), description="plain text: a file, folder or hub data set `org/name@commit:split`, or several"
    )
    demonstrations: Given = Field((), description="conversations that end with a good answer, likewise")
    preferences: Given = Field((), description="conversations with a chosen and a rejected answer, or ranked ones")
    prompts: Given = Field((), description="conversations that end with the user")
    eval: Given = Field((), description="the same, kept for the reports")
    ratings: Given = Field((), description="answers labelled good or bad one by one")
    columns: dict[str, str | dict[str, str]] = Field(
        {},
        description="their name for one of our fields, where it differs: `prompt: question`; a kind may have its own",
    )
    chosen_as_demonstrations: bool = Field(
        False, description="where no demonstrations are given, the chosen answers of the preferences serve as such"
    )
    inputs: tuple[Input, ...] = Field((), description="files of data/inbox, for source `inbox`")
    world: World = Field(default_factory=World, description="size of the embedded world")

    @field_validator("columns")
    @classmethod
    def _columns_are_known(cls, columns: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        for name, theirs in columns.items():
            known = OURS if isinstance(theirs, str) else GIVEN
            for ours in (name,) if isinstance(theirs, str) else (name, *theirs):
                among = known if ours == name else OURS
                if ours not in among:
                    raise ValueError(f"`{ours}` is none of our fields; {_near(ours, among)}")
        return columns

    @model_validator(mode="after")
    def _inputs_fit(self) -> Self:
        if self.source == "world" and self.inputs:
            raise ValueError("inputs are read only with source: inbox (shards in data/inbox/<kind>/ always are)")
        if self.source == "world" and self.given():
            raise ValueError(f"{next(iter(self.given()))} are read only with source: inbox")
        return self

    def given(self) -> Mapping[str, tuple[str, ...]]:
        """What is named for each kind, where something is."""
        return {kind: getattr(self, kind) for kind in GIVEN if getattr(self, kind)}

    def columns_of(self, kind: str) -> dict[str, str]:
        """{our field: their column} for files of one kind; what the kind has of its own goes first."""
        own: Any = self.columns.get(kind, {})
        return {ours: theirs for ours, theirs in self.columns.items() if isinstance(theirs, str)} | dict(own)


def _near(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"they are: {', '.join(known)}"
