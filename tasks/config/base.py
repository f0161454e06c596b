"""Knobs of stage `base`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section


class Base(Section):
    """The model that everything starts from."""

    source: Literal["scratch", "checkpoint"] = Field(
        "scratch", description="train a tiny Llama on the corpus, or adapt the checkpoint in data/inbox/checkpoint"
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="pretrained model to start from: a folder, or `org/name@commit` on the Hugging Face hub",
    )
    trust_remote_code: bool = Field(
        False, description="run the Python that the checkpoint brings (auto_map): only where you trust its authors"
    )
    template: Literal["auto", "markers", "continue"] = Field(
        "auto",
        description="how turns of a checkpoint are written. auto: by its own chat template, or by added markers where "
        "it has none; markers: always by added markers; continue: not at all, the answer continues the prompt",
    )
    stop_token: str | None = Field(
        None, min_length=1, description="token that ends an answer; null: the template's, else eos (checkpoint)"
    )
    seed: int = Field(0, ge=0, description="initial weights and the order of documents")
    hidden_size: int = Field(128, ge=8, description="width of the residual stream (scratch)")
    num_layers: int = Field(2, ge=1, description="transformer blocks (scratch)")
    num_heads: int = Field(4, ge=1, description="attention heads (scratch)")
    intermediate_size: int = Field(384, ge=8, description="width of the feed-forward block (scratch)")
    max_tokens: int = Field(256, ge=16, description="longest sequence the model has room for (scratch)")
    epochs: int = Field(1, ge=1, description="passes over the corpus (scratch)")
    batch_size: int = Field(24, ge=1, description="documents of one optimiser step; many small steps learn most")
    lr: float = Field(4e-3, gt=0, description="peak learning rate of embeddings and norms (AdamW)")
    matrix_lr: float = Field(0.015, gt=0, description="peak learning rate of the hidden matrices (Muon)")
    warmup_steps: int = Field(50, ge=0, description="optimiser steps of linear rise to the peak")
    weight_decay: float = Field(0.05, ge=0, description="pull of the weights towards 0")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    checkpoint_every: int = Field(400, ge=1, description="optimiser steps between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through the model, padding counted")

    @model_validator(mode="after")
    def _model_is_read(self) -> Self:
        if self.model and self.source == "scratch":
            raise ValueError("model is read only with source: checkpoint")
        return self
