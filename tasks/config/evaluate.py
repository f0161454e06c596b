"""Knobs of stage `evaluate`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tasks.config import Section
from tasks.config.rewards import Rewards


class Evaluate(Section):
    """How every policy is sampled and scored: the same prompts, seeds and settings for all of them."""

    num_prompts: int = Field(400, ge=2, description="evaluation prompts used, at most (the same ones for every policy)")
    samples_per_prompt: int = Field(4, ge=1, description="completions a prompt; it is answered once greedily too")
    differences: list[Annotated[str, Field(pattern=r"^[\w-]+ - [\w-]+$")]] = Field(
        [], description="further paired differences, as `rl - dpo`; each policy against SFT and the champion is there"
    )
    num_selection_prompts: int = Field(
        200, ge=2, description="val prompts on which the gate's candidate is chosen, at most; the half that rl left"
    )
    rewards: Rewards | None = Field(
        None,
        description="rules that score every answer, and judge where there is neither gold nor a held-out reward model; "
        "the weights of a reward model and a judge must be 0",
    )
    best_of_n_prompts: int = Field(
        200, ge=2, description="evaluation prompts behind the best-of-n curve of SFT, at most"
    )
    best_of_n: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 16], min_length=1, description="sizes n of the best-of-n curve"
    )
    num_demonstrations: int = Field(
        200, ge=1, description="held-out demonstrations whose NLL shows forgetting, at most"
    )
    bootstrap_samples: int = Field(2000, ge=100, description="resamples of the prompts behind every 95% interval")
    max_batch_tokens: int = Field(2048, ge=1, description="tokens of one forward pass when scoring, padding counted")

    @model_validator(mode="after")
    def _rules_are_rules(self) -> Self:
        if self.rewards and (self.rewards.reward_model or self.rewards.judge):
            raise ValueError(
                f"rewards has weights {self.rewards.reward_model:g} of the reward model and {self.rewards.judge:g} of "
                "the judge, expected 0: reward models are given with --policy-rm and --held-out-rm"
            )
        return self
