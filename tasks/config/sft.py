"""Knobs of stage `sft`."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class Sft(Section):
    """Instruction tuning: the loss is on what the assistant says, its stop token included."""

    loss_on: Literal["final", "all"] = Field("final", description="train the last assistant turn, or all of them")
    epochs: int = Field(2, ge=1, description="passes over the demonstrations")
    batch_size: int = Field(16, ge=1, description="conversations of one optimiser step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak")
    weight_decay: float = Field(0.0, ge=0, description="pull of the weights towards 0")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    max_tokens: int = Field(256, ge=8, description="longer conversations are dropped and counted, never cut")
    num_samples: int = Field(32, ge=1, description="val prompts answered before and after, for the sample table")
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through the model, padding counted")
