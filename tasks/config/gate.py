"""Knobs of stage `gate`: what a policy must show before it may replace the one that serves."""

from pydantic import Field

from tasks.config import Section


class Gate(Section):
    """Limits of the promotion gate."""

    candidate: str = Field(
        "best",
        pattern=r"^[A-Za-z_][\w-]*$",
        description="policy put forward, by name; best = highest selection score on val, never chosen on eval",
    )
    min_gain: float = Field(
        0.0, description="the 95% interval of the gain over the champion (or SFT) must lie above this"
    )
    max_kl: float = Field(10.0, gt=0, description="KL budget to SFT, nats a completion")
    max_length_ratio: float = Field(1.5, gt=0, description="longest mean completion allowed, as a multiple of SFT's")
    min_stop_rate: float = Field(0.9, ge=0, le=1, description="least share of completions that end by themselves")
    max_quarantine_share: float = Field(
        0.03, ge=0, le=1, description="largest share of any kind of data that validation may have set aside"
    )
    max_nll_increase: float = Field(
        1.0,
        gt=0,
        description="how far the NLL of held-out demonstrations may rise above SFT's, nats a token; without "
        "any, that of the answers themselves, under SFT",
    )
