"""Size of the embedded world (`rlhf.world`)."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class World(Section):
    """The `collect.world` block: keyword arguments of `rlhf.world.generate.write_world`."""

    num_documents: int = Field(30_000, ge=100, description="of the pretraining corpus, about 33 tokens each")
    num_demonstrations: int = Field(2_000, ge=10, description="questions with an answer to imitate, good or not")
    num_offline_pairs: int = Field(1_500, ge=10, description="old answers that the annotators compared")
    num_prompts: int = Field(4_600, ge=20, description="different questions for sampling, all splits together")
    panel: Literal["default", "hackable"] = Field(
        "default", description="who compares the offline pairs; `hackable` annotators have strong biases"
    )
