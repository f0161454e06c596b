"""How every stage samples and scores completions: one setting, so that their figures can be compared."""

from pydantic import Field

from tasks.config import Section


class Generation(Section):
    """The `generation` section, shared by sft, annotate, sample, rl and evaluate."""

    max_new_tokens: int = Field(48, ge=1, description="length at which a completion is cut off, tokens")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-probability")
    batch_size: int = Field(
        512,
        ge=1,
        description="completions sampled at a time, each with its keys and values in memory; results differ by "
        "rounding alone",
    )
    unfinished_reward: float = Field(
        -2.0, description="reward of a completion that was cut off, in standard deviations of the reward model"
    )
