"""Knobs of the on-policy algorithms, one block each; the key of stage `rl` holds only the block in use."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.config import Section

Aggregation = Literal["sequence", "token", "fixed"]


class OnPolicy(Section):
    """What every on-policy algorithm needs to know about its batches."""

    name: ClassVar[str]
    """As in `rl.algorithm`."""
    prompts_per_update: int = Field(16, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(8, ge=1, description="completions sampled for each of them")
    inner_steps: int = Field(1, ge=1, description="optimiser steps on each batch of rollouts")
    aggregation: Aggregation = Field(
        "token",
        description="how token losses are averaged over a step: by sequence, over all tokens, or by max_new_tokens",
    )

    def knobs(self) -> dict[str, Any]:
        """The algorithm's own knobs: what its function in rlhf.algorithms takes."""
        return self.model_dump(exclude=set(OnPolicy.model_fields) - {"aggregation"})


class Reinforce(OnPolicy):
    """REINFORCE with the batch mean as baseline."""

    name: ClassVar[str] = "reinforce"
    inner_steps: int = Field(1, ge=1, le=1, description="always 1: REINFORCE has no ratio that corrects for more")
    normalise: bool = Field(True, description="divide advantages by their standard deviation over the batch")


class Rloo(OnPolicy):
    """RLOO: the other completions of a prompt are the baseline, KL is part of the reward."""

    name: ClassVar[str] = "rloo"
    group_size: int = Field(8, ge=2, description="completions sampled for each of them")
    normalise: bool = Field(True, description="divide advantages by their standard deviation over the batch")
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratio clipped below 1 - this, from the second inner step on")
    clip_high: float = Field(0.2, ge=0, description="ratio clipped above 1 + this, from the second inner step on")


class Grpo(OnPolicy):
    """GRPO: rewards normalised within the group, KL is part of the loss (kl_coef in units of the rewards' spread)."""

    name: ClassVar[str] = "grpo"
    group_size: int = Field(8, ge=2, description="completions sampled for each of them")
    aggregation: Aggregation = Field(
        "sequence",
        description="how token losses are averaged over a step: by sequence, over all tokens, or by max_new_tokens",
    )
    kl_estimator: Literal["k2", "k3"] = Field(
        "k3", description="estimate of each token's KL in the loss; k3 in the paper, k2 has the exact gradient"
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratio clipped below 1 - this, from the second inner step on")
    clip_high: float = Field(0.2, ge=0, description="ratio clipped above 1 + this, from the second inner step on")


class Ppo(OnPolicy):
    """PPO with a critic that starts as a copy of the reward model; KL is part of each token's reward."""

    name: ClassVar[str] = "ppo"
    prompts_per_update: int = Field(128, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(1, ge=1, description="completions sampled for each of them")
    inner_steps: int = Field(2, ge=1, description="optimiser steps on each batch of rollouts")
    value_lr: float = Field(2e-3, gt=0, description="peak learning rate of the critic")
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards, per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1: advantages from whole returns, 0: from one step ahead")
    whiten: bool = Field(True, description="shift and scale advantages to mean 0, variance 1 over the batch's tokens")
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratio clipped below 1 - this")
    clip_high: float = Field(0.2, ge=0, description="ratio clipped above 1 + this")
    value_clip: float = Field(0.2, gt=0, description="how far values may move from those of the rollouts, in a loss")

    def knobs(self) -> dict[str, Any]:
        """As above; the learning rate of the critic is the optimiser's business."""
        return {name: value for name, value in super().knobs().items() if name != "value_lr"}
