"""Knobs of stage `folds`."""

from pydantic import Field

from tasks.config import Section


class Folds(Section):
    """Cross-validation of the reward model's recipe, which is that of section `reward_model`."""

    count: int = Field(
        5, ge=2, description="parts that the pairs are dealt into by group; each is held out once, the rest is learnt"
    )
