"""Knobs of stage `reward_model`."""

from pydantic import Field

from tasks.config import Section


class RewardModel(Section):
    """Two Bradley-Terry models on disjoint prompts, and when they are trusted."""

    epochs: int = Field(1, ge=1, description="passes over the pairs; more than one overfits")
    batch_size: int = Field(8, ge=1, description="prompts of one optimiser step, with all their pairs")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the language model below the heads")
    head_lr: float = Field(5e-3, gt=0, description="peak learning rate of the heads, which start from nothing")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak")
    weight_decay: float = Field(0.01, ge=0, description="pull of the weights towards 0")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    centring: float = Field(0.0, ge=0, description="weight of (r_chosen + r_rejected)², which holds scores near 0")
    lm_coef: float = Field(0.5, ge=0, description="weight of the language-model loss on chosen completions")
    min_accuracy: float = Field(0.6, ge=0, le=1, description="accuracy on val pairs below which a model is not trusted")
    max_calibration_error: float = Field(0.15, ge=0, le=1, description="above this expected error it is not trusted")
    max_length_correlation: float = Field(
        0.6, ge=0, le=1, description="above this |correlation of reward and length| it is not trusted"
    )
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of one pass through the model, padding counted")
