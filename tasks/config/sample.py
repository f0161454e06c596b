"""Knobs of stage `sample`."""

from pydantic import Field

from tasks.config import Section
from tasks.config.rewards import Rewards


class Sample(Section):
    """The rollout store: N completions a prompt with their log-probabilities and rewards."""

    num_prompts: int = Field(800, ge=1, description="prompts of the rl pool, at most")
    group_size: int = Field(8, ge=2, description="completions a prompt (N)")
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of one pass through a model, padding counted")
    rewards: Rewards = Field(default_factory=Rewards, description="what a completion is rewarded for")
