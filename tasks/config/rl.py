"""Knobs of stage `rl`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section
from tasks.config.rewards import Rewards
from tasks.config.samplers import SamplerServer


class Rl(Section):
    """Policy gradients on a KL leash; the algorithm's own knobs, its learning rate too, are in `algorithms`."""

    algorithm: Literal[
        "reinforce", "rloo", "ppo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_plus_plus", "online_dpo"
    ] = Field("ppo", description="which block of `algorithms`")
    rewards: Rewards = Field(default_factory=Rewards, description="what is optimised: components and their weights")
    sampler: Literal["ours", "continuous_batching", "server"] = Field(
        "ours",
        description="what draws completions: ours, transformers' continuous batching, or sampler_server; all but ours "
        "need the algorithm's importance_cap",
    )
    sampler_server: SamplerServer = Field(
        default_factory=SamplerServer, description="asked only where the sampler is server"
    )
    min_solve_rate: float = Field(
        0.0, ge=0, le=1, description="prompts whose --samples were right less often are left out; needs --samples"
    )
    max_solve_rate: float = Field(
        1.0, ge=0, le=1, description="and those whose samples were right more often; equal rewards teach nothing"
    )
    num_updates: int = Field(30, ge=1, description="batches of rollouts, at most")
    kl_coef: float = Field(0.1, ge=0, description="price of a nat of KL to the reference, in units of reward")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="nats a completion learnt from that kl_coef is adapted to hold; null keeps kl_coef as it is",
    )
    kl_limit: float | None = Field(
        10.0,
        gt=0,
        description="nats a token to the reference above which, three updates in a row, training stops (kl_diverged): "
        "far more than any policy that still writes sentences; null never stops",
    )
    signal_within: int | None = Field(
        10,
        ge=1,
        description="updates by which two completions of a prompt must have had different rewards, else training "
        "stops (no_signal); null waits for ever",
    )
    max_unscorable: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of a batch's completions whose reward may be no number; their prompts are left out",
    )
    ptx_coef: float = Field(0.0, ge=0, description="weight of the demonstrations' NLL per token (PPO-ptx); 0: none")
    ptx_batch_size: int = Field(32, ge=1, description="demonstrations of one optimiser step, where ptx_coef is not 0")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear rise to the peak learning rate")
    final_lr_fraction: float = Field(0.1, ge=0, le=1, description="share of the peak that the linear fall ends at")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's memory of squared gradients; short, as runs are short")
    eps: float = Field(
        1e-5, gt=0, description="AdamW's eps; smaller lets weights with small gradients move as far as all others"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="limit of the gradient's length")
    val_every: int = Field(10, ge=1, description="updates between two looks at the val prompts")
    num_val_prompts: int = Field(200, ge=2, description="val prompts looked at, at most; half of val is for this")
    select_best: bool = Field(
        True,
        description="keep the policy with the best held-out reward on val (the best reward where there is no held-out "
        "model, a weaker rule); false keeps the last one",
    )
    stop_early: bool = Field(
        True, description="end where held-out reward on val stays below its best while the reward is above it"
    )
    patience: int = Field(2, ge=1, description="looks in a row at which they must be apart for an early stop")
    keep_looks: bool = Field(
        False,
        description="also write the policy of every look, to looks/NNNN; the stage must have the folder looks among "
        "its outs, as in profile over-optimisation",
    )
    allow_untrusted: bool = Field(
        False, description="optimise a reward model that failed its own checks (the gate will still refuse the result)"
    )
    checkpoint_every: int = Field(10, ge=1, description="updates between two checkpoints")
    max_batch_tokens: int = Field(4096, ge=1, description="tokens of one pass through a model, padding counted")

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.min_solve_rate > self.max_solve_rate:
            raise ValueError(f"min_solve_rate {self.min_solve_rate} is above max_solve_rate {self.max_solve_rate}")
        return self

    def further_outs(self) -> dict[str, str]:
        """What only some settings write, in the stage's folder, with the knob that makes it so (see `tasks.stage`)."""
        return {"looks": "keep_looks"} if self.keep_looks else {}
