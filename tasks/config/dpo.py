"""Knobs of stage `dpo`."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class DirectAlignment(Section):
    """Learning from preferences without a reward model; the method's own knobs are in `algorithms`."""

    algorithm: Literal["dpo", "cdpo", "ipo", "kto", "orpo", "simpo", "dpo_norm", "dpo_nll"] = Field(
        "dpo", description="which block of `algorithms`"
    )
    max_pairs: int = Field(4000, ge=1, description="pairs to train on, at most; drawn at random where there are more")
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    batch_size: int = Field(32, ge=1, description="pairs of one optimiser step, or completions judged alone")
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear rise to the peak")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(2048, ge=1, description="tokens of one pass through the model, padding counted")
