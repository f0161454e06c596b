"""Where a server that samples is: a part of the sections of the stages that learn from samples."""

from typing import Literal

from pydantic import Field

from tasks.config import Section


class SamplerServer(Section):
    """A server that speaks what docs/samplers.md has: vLLM's dialect of OpenAI's completions."""

    url: str = Field("http://localhost:8000", description="address up to and without /v1")
    hand_over: Literal["weights", "adapter"] = Field(
        "weights", description="what it loads for each update: all weights, adapters merged in, or the adapters alone"
    )
    folder: str | None = Field(
        None,
        description="folder that this machine and the server have by the same path, for what is handed over; null: the "
        "stage's scratch folder, for a server on this machine",
    )
    key_variable: str | None = Field(
        None,
        description="environment variable that holds the API key; null sends none (the key itself never goes here)",
    )
    timeout_seconds: float = Field(300.0, gt=0, description="wait for one answer, or for weights to be loaded")
    attempts: int = Field(
        4, ge=1, description="requests until the server counts as away, or as one that keeps to an old version"
    )
    parallel: int = Field(16, ge=1, description="prompts asked at a time")
