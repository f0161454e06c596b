"""Knobs of the on-policy algorithms, one block each; the key of stage `rl` holds only the block in use."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section

Aggregation = Literal["sequence", "token", "fixed"]
KlIn = Literal["reward", "loss", "none"]
Estimator = Literal["k1", "k2", "k3"]


class OnPolicy(Section):
    """What every on-policy algorithm needs to know about its batches and steps."""

    name: ClassVar[str]
    """As in `rl.algorithm`."""
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the policy")
    prompts_per_update: int = Field(32, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(4, ge=1, description="completions sampled for each of them")
    inner_steps: int = Field(2, ge=1, description="optimiser steps on each batch of rollouts")
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="limit of token weights learner/sampler, for a sampler of other numerics (2 is usual); null: none",
    )

    def knobs(self) -> dict[str, Any]:
        """The algorithm's own knobs: what its function in rlhf.algorithms takes."""
        return self.model_dump(exclude=set(OnPolicy.model_fields))

    @model_validator(mode="after")
    def _leash_holds(self) -> Self:
        where, estimator = getattr(self, "kl_in", "none"), getattr(self, "kl_estimator", "k1")
        if where == "reward" and estimator != "k1":
            raise ValueError(
                f"kl_in reward with kl_estimator {estimator} is no leash (what is rarer than in the reference is "
                "charged for it, and becomes rarer still): use k1 there, or kl_in loss"
            )
        if where == "loss" and estimator == "k1":
            raise ValueError(
                "kl_in loss with kl_estimator k1 is no leash (its expected gradient is 0): use k2 or k3 there, or "
                "kl_in reward; kl_in none leaves KL out"
            )
        return self


def _group() -> Any:
    return Field(4, ge=2, description="completions sampled for each of them")


def _one_step(why: str) -> Any:
    return Field(1, ge=1, le=1, description=f"always 1: {why}")


def _kl_in(default: KlIn, paper: str = "") -> Any:
    return Field(
        default, description=f"where the KL penalty goes: off the reward, into the loss, or nowhere at all{paper}"
    )


def _kl_estimator(default: Estimator) -> Any:
    return Field(
        default,
        description="estimate of KL: k1 for the reward; in the loss k2 or k3 (k1 has no expected gradient there)",
    )


def _aggregation(default: Aggregation) -> Any:
    return Field(
        default,
        description="how token losses are averaged over a step: by sequence, over all tokens, or by max_new_tokens",
    )


def _clip_low(default: float = 0.2, what: str = "ratio") -> Any:
    return Field(
        default, ge=0, le=1, description=f"{what} clipped below 1 - this, from the second inner step on; 1: not at all"
    )


def _clip_high(default: float = 0.2, what: str = "ratio") -> Any:
    return Field(default, ge=0, description=f"{what} clipped above 1 + this, from the second inner step on")


def _normalise() -> Any:
    return Field(True, description="divide advantages by their standard deviation over the batch")


class Reinforce(OnPolicy):
    """REINFORCE with the batch mean as baseline."""

    name: ClassVar[str] = "reinforce"
    lr: float = Field(5e-4, gt=0, description="peak learning rate of the policy")
    prompts_per_update: int = Field(128, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(1, ge=1, description="completions sampled for each of them")
    inner_steps: int = _one_step("REINFORCE has no ratio that corrects for more")
    kl_in: KlIn = _kl_in("reward")
    kl_estimator: Estimator = _kl_estimator("k1")
    aggregation: Aggregation = _aggregation("token")
    normalise: bool = _normalise()


class Rloo(OnPolicy):
    """RLOO: the other completions of a prompt are the baseline, KL is part of the reward."""

    name: ClassVar[str] = "rloo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("reward")
    kl_estimator: Estimator = _kl_estimator("k1")
    aggregation: Aggregation = _aggregation("token")
    normalise: bool = _normalise()
    clip_low: float = _clip_low()
    clip_high: float = _clip_high()


class Ppo(OnPolicy):
    """PPO with a critic that starts as a copy of the reward model; KL is part of each token's reward."""

    name: ClassVar[str] = "ppo"
    value_lr: float = Field(2e-3, gt=0, description="peak learning rate of the critic")
    prompts_per_update: int = Field(128, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(1, ge=1, description="completions sampled for each of them")
    inner_steps: int = Field(2, ge=1, description="optimiser steps on each batch of rollouts")
    kl_in: KlIn = _kl_in("reward")
    kl_estimator: Estimator = _kl_estimator("k1")
    aggregation: Aggregation = _aggregation("token")
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards, per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1: advantages from whole returns, 0: from one step ahead")
    whiten: bool = Field(True, description="shift and scale advantages to mean 0, variance 1 over the batch's tokens")
    clip_low: float = _clip_low()
    clip_high: float = _clip_high()
    value_clip: float = Field(0.2, gt=0, description="how far values may move from those of the rollouts, in a loss")

    def knobs(self) -> dict[str, Any]:
        """As above; the learning rate of the critic is the optimiser's business."""
        return {name: value for name, value in super().knobs().items() if name != "value_lr"}


class Grpo(OnPolicy):
    """GRPO: rewards normalised within the group, KL is part of the loss (kl_coef in units of the rewards' spread)."""

    name: ClassVar[str] = "grpo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("loss")
    kl_estimator: Estimator = _kl_estimator("k3")
    aggregation: Aggregation = _aggregation("sequence")
    clip_low: float = _clip_low()
    clip_high: float = _clip_high()


class DrGrpo(OnPolicy):
    """Dr. GRPO: no division by the group's spread nor by a completion's own length."""

    name: ClassVar[str] = "dr_grpo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("reward", paper=" (none in the paper)")
    kl_estimator: Estimator = _kl_estimator("k1")
    aggregation: Aggregation = _aggregation("fixed")
    clip_low: float = _clip_low()
    clip_high: float = _clip_high()


class Dapo(OnPolicy):
    """DAPO: GRPO with room above, prompts with contrast only, all tokens alike, a soft length limit, no KL."""

    name: ClassVar[str] = "dapo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("none")
    kl_estimator: Estimator = _kl_estimator("k3")
    aggregation: Aggregation = _aggregation("token")
    clip_low: float = _clip_low()
    clip_high: float = _clip_high(0.28)
    dynamic_sampling: bool = Field(
        True, description="prompts whose completions all have the same reward are replaced by others"
    )
    overlong_penalty: float = Field(
        1.0, ge=0, description="taken off the reward of a completion of max_new_tokens, less off somewhat shorter ones"
    )
    overlong_share: float = Field(
        0.2, gt=0, le=1, description="last share of max_new_tokens over which that penalty rises from 0"
    )


class Gspo(OnPolicy):
    """GSPO: as GRPO, with one ratio a completion, that of its probability per token."""

    name: ClassVar[str] = "gspo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("loss", paper=" (none in the paper)")
    kl_estimator: Estimator = _kl_estimator("k3")
    aggregation: Aggregation = _aggregation("sequence")
    clip_low: float = _clip_low(0.01, "a completion's ratio")
    clip_high: float = _clip_high(0.015, "a completion's ratio")


class Cispo(OnPolicy):
    """CISPO: as GRPO, but the clip bounds a token's weight and never drops the token."""

    name: ClassVar[str] = "cispo"
    group_size: int = _group()
    kl_in: KlIn = _kl_in("loss", paper=" (none in the paper)")
    kl_estimator: Estimator = _kl_estimator("k3")
    aggregation: Aggregation = _aggregation("token")
    clip_low: float = _clip_low(1.0, "weight")
    clip_high: float = _clip_high(4.0, "weight")


class ReinforcePlusPlus(OnPolicy):
    """REINFORCE++: returns from each token on, normalised over the batch; no critic, KL in each token's reward."""

    name: ClassVar[str] = "reinforce_plus_plus"
    lr: float = Field(5e-4, gt=0, description="peak learning rate of the policy")
    prompts_per_update: int = Field(128, ge=1, description="different prompts in a batch of rollouts")
    group_size: int = Field(1, ge=1, description="completions sampled for each of them")
    kl_in: KlIn = _kl_in("reward")
    kl_estimator: Estimator = _kl_estimator("k1")
    aggregation: Aggregation = _aggregation("token")
    clip_low: float = _clip_low()
    clip_high: float = _clip_high()


class OnlineDpo(OnPolicy):
    """Online DPO: the best and the worst of each prompt's completions are a pair; rl.kl_coef plays no part."""

    name: ClassVar[str] = "online_dpo"
    group_size: int = _group()
    inner_steps: int = _one_step("the gradient is DPO's at the policy that sampled")
    beta: float = Field(0.4, gt=0, description="strength of the pull to the reference; larger stays nearer")


OnPolicyAlgorithm = Reinforce | Rloo | Ppo | Grpo | DrGrpo | Dapo | Gspo | Cispo | ReinforcePlusPlus | OnlineDpo
