"""Knobs of stage `rl`."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class Rl(Section):
    """Policy gradients against the reward model with a KL leash; the algorithm's own knobs are in `algorithms`."""

    algorithm: Literal["reinforce", "rloo", "grpo", "ppo"] = Field("ppo", description="which block of `algorithms`")
    num_updates: int = Field(50, ge=1, description="batches of rollouts")
    kl_coef: float = Field(0.1, ge=0, description="price of a nat of KL to the reference, in units of reward")
    kl_target: float | None = Field(
        None, gt=0, description="nats a completion that kl_coef is adapted to hold; null keeps kl_coef as it is"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the policy")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak")
    final_lr_fraction: float = Field(0.1, ge=0, le=1, description="share of the peak that the linear fall ends at")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's memory of squared gradients; short, as runs are short")
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    val_every: int = Field(10, ge=1, description="updates between two looks at the val prompts")
    num_val_prompts: int = Field(200, ge=2, description="val prompts looked at, at most; half of val is for this")
    select_best: bool = Field(
        True, description="keep the policy with the best held-out reward on val; false keeps the last one"
    )
    allow_untrusted: bool = Field(
        False, description="optimise a reward model that failed its own checks (the gate will still refuse the result)"
    )
    checkpoint_every: int = Field(10, ge=1, description="updates between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through a model, padding counted")
