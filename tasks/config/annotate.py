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
    held_out_share: float = Field(
        0.4, gt=0, lt=1, description="share of the questions whose pairs only the held-out reward model learns from"
    )
