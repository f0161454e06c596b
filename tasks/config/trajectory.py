"""Knobs of stage `trajectory`."""

from typing import Annotated

from pydantic import Field

from tasks.config import Section


class Trajectory(Section):
    """How the policies along an RL run are examined; prompts and sampling are those of `evaluate`."""

    num_prompts: int = Field(200, ge=2, description="of the evaluation prompts, at most: every look answers them all")
    best_of_n: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 16, 32, 64], min_length=1, description="sizes n of the best-of-n curve of SFT"
    )
    best_of_n_prompts: int = Field(100, ge=2, description="evaluation prompts behind that curve, at most")
