"""Knobs of stage `rejection_sampling`."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class RejectionSampling(Section):
    """Fine-tuning on the best of N, and on a random selection of the same size as its control."""

    selection: Literal["top_per_prompt", "top_overall"] = Field(
        "top_per_prompt", description="the best completion of each prompt, or as many best ones of all together"
    )
    min_reward: float | None = Field(
        None,
        description="choose no completion below this reward, e.g. no wrong one of a verifier; null: the best anyway",
    )
    epochs: int = Field(2, ge=1, description="passes over the selected completions")
    batch_size: int = Field(32, ge=1, description="completions of one optimiser step")
    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through the model, padding counted")
