"""One schema, splits by group."""

from typing import Self

from pydantic import Field, model_validator

from tasks.config import Section


class Prepare(Section):
    """The `prepare` section."""

    val_share: float = Field(0.1, ge=0, lt=1, description="share of groups kept for choosing settings")
    eval_share: float = Field(
        0.1, ge=0, lt=1, description="share of groups never trained on; their questions join the eval prompts"
    )
    max_row_bytes: int = Field(1_000_000, ge=1, description="a longer row is set aside unread")

    @model_validator(mode="after")
    def _train_is_left(self) -> Self:
        if self.val_share + self.eval_share >= 1:
            raise ValueError(f"val_share + eval_share is {self.val_share + self.eval_share:g}, must be below 1")
        return self
