"""Knobs of stage `sample`."""

from pydantic import Field

from tasks.config import Section


class Sample(Section):
    """The rollout store: N completions a prompt with their log-probabilities and rewards."""

    num_prompts: int = Field(800, ge=1, description="prompts of the rl pool, at most")
    group_size: int = Field(8, ge=2, description="completions a prompt (N)")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of the log-probabilities kept")
    max_new_tokens: int = Field(48, ge=1, description="length at which a completion is cut off, tokens")
    unfinished_reward: float = Field(
        -2.0, description="reward of a completion that was cut off, in standard deviations of the reward model"
    )
    max_batch_tokens: int = Field(8192, ge=1, description="tokens of one pass through a model, padding counted")
