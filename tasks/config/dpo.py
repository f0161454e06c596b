"""Knobs of stage `dpo`."""

from pydantic import Field

from tasks.config import Section


class Dpo(Section):
    """Direct preference optimisation on the preference pairs."""

    beta: float = Field(0.2, gt=0, description="how dear it is to leave the reference: larger stays closer")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong (cDPO)")
    max_pairs: int = Field(4000, ge=1, description="pairs to train on, at most; drawn at random where there are more")
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    batch_size: int = Field(32, ge=1, description="pairs of one optimiser step")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear rise to the peak")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through the model, padding counted")
