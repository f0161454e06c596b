"""The data gate. The rules themselves are in data/expectations/, one readable file a kind of data."""

from typing import Literal

from pydantic import Field

from tasks.config import Section

Kind = Literal["corpus", "demonstrations", "preferences", "prompts", "eval", "ratings"]


class Validate(Section):
    """The `validate` section. The suites refer to these numbers as `params.<name>`."""

    required: tuple[Kind, ...] = Field(
        ("corpus", "demonstrations", "preferences", "prompts", "eval"),
        description="kinds of data that this run cannot do without",
    )
    min_rows: int = Field(
        1, ge=0, description="fewest rows of demonstrations, preferences and prompts, where they are required"
    )
    max_quarantine_share: float = Field(0.05, ge=0, le=1, description="more set aside than this stops the run")
    max_prompt_chars: int = Field(2000, ge=1, description="longest conversation before the answer, all turns together")
    max_completion_chars: int = Field(2000, ge=1, description="longest answer")
    max_turns: int = Field(100, ge=1, description="most messages of a conversation")
    max_document_chars: int = Field(20_000, ge=1, description="longest document of the corpus")
    max_length_bias: float = Field(
        0.4, gt=0, le=0.5, description="how far P(chosen is the longer one) may be from a half before the run stops"
    )
    max_contamination: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of rows with thirteen words in a row of a protected one before the run stops",
    )
