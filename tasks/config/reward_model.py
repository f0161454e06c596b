"""Knobs of stage `reward_model`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section


class RewardModel(Section):
    """Two Bradley-Terry models on disjoint prompts, and when they are trusted."""

    epochs: int = Field(1, ge=1, description="passes over the pairs; more than one overfits")
    batch_size: int = Field(8, ge=1, description="prompts of one optimiser step, with all their pairs")
    lr: float = Field(
        1e-3, ge=0, description="peak learning rate of the language model below the heads; 0 trains the heads alone"
    )
    head_lr: float = Field(5e-3, gt=0, description="peak learning rate of the heads, which start from nothing")
    reads: Literal["tokens", "last_token"] = Field(
        "tokens",
        description="what a score is read from: the last token and every token of the answer, or the last alone, which "
        "with a large vocabulary is much less work",
    )
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak")
    weight_decay: float = Field(0.01, ge=0, description="pull of the weights towards 0")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    weigh_by: Literal["pair", "prompt"] = Field(
        "pair", description="what counts alike: every pair, or every prompt with its C pairs at 1/C each (InstructGPT)"
    )
    margin_coef: float = Field(
        0.0, ge=0, description="how much of a pair's own `margin` its rewards must differ by (Llama 2); 0 ignores it"
    )
    centring: float = Field(0.0, ge=0, description="weight of (r_chosen + r_rejected)², which holds scores near 0")
    lm_coef: float = Field(0.5, ge=0, description="weight of the language-model loss on chosen completions")
    ensemble: int = Field(1, ge=1, description="reward models trained on each half, alike but for their first heads")
    combine: Literal["mean", "min", "mean_minus_std"] = Field(
        "mean", description="how the scores of an ensemble become one; the last two are worth little where they differ"
    )
    min_accuracy: float = Field(0.6, ge=0, le=1, description="accuracy on val pairs below which a model is not trusted")
    min_length_bin_accuracy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="the same on the pairs whose chosen side is longer, and on those where it is shorter",
    )
    max_calibration_error: float = Field(0.15, ge=0, le=1, description="above this expected error it is not trusted")
    max_length_correlation: float = Field(
        0.6, ge=0, le=1, description="above this |correlation of reward and length| it is not trusted"
    )
    max_padding_gap: float = Field(
        1e-4,
        gt=0,
        description="above this change of a score, alone or padded instead of in its batch, it is not trusted",
    )
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of one pass through the model, padding counted")

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.lm_coef and not self.lr:
            raise ValueError(f"lm_coef is {self.lm_coef:g} and lr 0, so that loss teaches nothing: set lm_coef to 0")
        return self
