"""How stages train: all weights, or adapters on a frozen base; one setting, since each builds on the one before."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section


class Training(Section):
    """The `training` section, shared by sft, reward_model, rejection_sampling, rl and dpo."""

    method: Literal["full", "lora", "qlora"] = Field(
        "full", description="train all weights, or an adapter a stage on the frozen base, with qlora in 4 bits"
    )
    rank: int = Field(16, ge=1, description="rank of an adapter (lora, qlora)")
    alpha: float = Field(32.0, gt=0, description="an adapter's update is scaled by alpha / rank (lora, qlora)")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of its inputs an adapter does not see in training; rl needs 0"
    )
    targets: tuple[str, ...] = Field(
        (), description="linear layers that get adapters, by their last name (`q_proj`); empty: all but the LM head"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="AdamW, or with moments in 8 bits, a quarter of their memory"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="what models compute in; trained weights have float32 copies in any case"
    )
    nproc: int = Field(
        1, ge=1, description="processes of a stage, one a GPU, that divide the micro-batches of each step"
    )
    shard: bool = Field(
        False, description="of a model's blocks, each process keeps a share of weights, gradients and moments (FSDP2)"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute every block in the backward pass: less memory, about a third more time"
    )

    @model_validator(mode="after")
    def _can_be_divided(self) -> Self:
        if self.shard and self.method == "qlora":
            raise ValueError(
                "shard divides weights by rows, and those in 4 bits would lose their scales: set shard to false, each "
                "process then has the whole base"
            )
        if self.shard and self.optimizer != "adamw":
            raise ValueError(f"shard divides moments by rows, and {self.optimizer} keeps them in blocks: take adamw")
        return self


FULL = Training()
