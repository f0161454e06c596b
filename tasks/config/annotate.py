"""Knobs of stage `annotate`."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class Annotate(Section):
    """Preferences to learn from: offline pairs, and pairs sampled from the SFT policy and labelled."""

    train_on: Literal["on_policy", "offline", "both"] = Field(
        "on_policy", description="which pairs the train split holds; pairs to measure on are on-policy where possible"
    )
    panel: Literal["default", "hackable"] = Field(
        "default", description="simulated annotators of the embedded world; `hackable` ones have strong biases"
    )
    num_prompts: int = Field(2000, ge=1, description="prompts of the preference pool to sample for, at most")
    group_size: int = Field(4, ge=2, description="completions a prompt; every two different ones are compared")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    max_new_tokens: int = Field(48, ge=1, description="length at which a completion is cut off, tokens")
