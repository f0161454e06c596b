"""What a completion is rewarded for: a part of the sections of the stages that score."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.config import Section


class Judge(Section):
    """Where a judge is: a server that speaks OpenAI's chat completions."""

    url: str = Field("http://localhost:8000/v1", description="address up to and without /chat/completions")
    model: str = Field("", description="name of the model that judges, as the server knows it")
    key_variable: str | None = Field(
        None,
        description="environment variable that holds the API key; null sends none (the key itself never goes here)",
    )
    timeout_seconds: float = Field(60.0, gt=0, description="wait for one reply")
    attempts: int = Field(4, ge=1, description="requests until the server counts as away")
    max_tokens: int = Field(512, ge=1, description="most tokens of one reply; the verdict is its last line")
    parallel: int = Field(8, ge=1, description="comparisons asked at a time")


class Rewards(Section):
    """Weights of the components of the reward, summed; 0 leaves one out."""

    reward_model: float = Field(1.0, description="weight of the reward model's score, in its standard deviations")
    verifier: float = Field(0.0, description="weight of 1 for a right answer, else 0")
    format: float = Field(
        0.0, description="weight of 1 where a completion came to its end in the form of format_pattern"
    )
    sentiment: float = Field(
        0.0, description="weight of how positive the completion sounds, −1 to 1, by the stage's --lexicon"
    )
    length: float = Field(0.0, description="weight of −1 for each token beyond length_budget")
    missing_stop: float = Field(
        0.0,
        description="weight of −1 for a completion that was cut off; beside reward_model, which gives it "
        "generation.unfinished_reward, that is a second charge unless one of them is 0",
    )
    judge: float = Field(
        0.0, description="weight of the share of the prompt's other completions that the judge puts below"
    )
    verify_with: Literal["prompt", "world", "exact", "number", "regex", "constraints", "code"] = Field(
        "prompt", description="verifier of all prompts; `prompt` takes the one that each prompt names"
    )
    format_pattern: str | None = Field(None, description="regular expression; the dot takes line breaks too")
    length_budget: int = Field(32, ge=0, description="tokens that are free, the stop token counted")
    judge_server: Judge = Field(default_factory=Judge, description="asked only where the judge has a weight")

    @property
    def rules(self) -> tuple[float, ...]:
        """Weights of the components that ask no model."""
        return (self.verifier, self.format, self.sentiment, self.length, self.missing_stop)

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not any((self.reward_model, self.judge, *self.rules)):
            raise ValueError("all rewards have weight 0: nothing would be optimised, give one another weight")
        if self.format and self.format_pattern is None:
            raise ValueError(f"format has weight {self.format} and format_pattern is null: give the form that is asked")
        if self.judge and not self.judge_server.model:
            raise ValueError(f"judge has weight {self.judge} and judge_server.model is empty: name the model")
        return self
