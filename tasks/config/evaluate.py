"""Knobs of stage `evaluate`."""

from typing import Annotated

from pydantic import Field

from tasks.config import Section


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
    batch_size: int = Field(512, ge=1, description="completions sampled at once")
    max_batch_tokens: int = Field(2048, ge=1, description="tokens of one forward pass when scoring, padding counted")
