"""Knobs of the direct methods, one block each; the key of stage `dpo` holds only the block in use."""

from typing import ClassVar

from pydantic import Field

from tasks.config import Section

BETA = "how dear it is to leave the reference: larger stays closer"
LR = "peak learning rate"


class Direct(Section):
    """What every direct method has."""

    name: ClassVar[str]
    """As in `dpo.algorithm`."""
    needs_reference: ClassVar[bool] = True
    """Whether the loss compares with the policy that training starts from."""
    lr: float = Field(3e-4, gt=0, description=LR)


class Dpo(Direct):
    """DPO: the reward that the policy itself implies is fitted to the preferences."""

    name: ClassVar[str] = "dpo"
    beta: float = Field(0.2, gt=0, description=BETA)


class Cdpo(Direct):
    """DPO for labels that are wrong at times."""

    name: ClassVar[str] = "cdpo"
    beta: float = Field(0.2, gt=0, description=BETA)
    label_smoothing: float = Field(0.1, ge=0, lt=0.5, description="share of labels taken to be wrong; 0 is DPO")


class Ipo(Direct):
    """IPO: log-ratios are fitted to a fixed gap."""

    name: ClassVar[str] = "ipo"
    beta: float = Field(0.1, gt=0, description="a gap of 1/(2 beta) nats is asked for: larger stays closer")


class Kto(Direct):
    """KTO: each completion is good or bad by itself, no pairs needed."""

    name: ClassVar[str] = "kto"
    beta: float = Field(0.5, gt=0, description=BETA)
    desirable_weight: float = Field(1.0, ge=0, description="weight of good completions")
    undesirable_weight: float = Field(1.0, ge=0, description="weight of bad completions")


class Orpo(Direct):
    """ORPO: supervised loss of the chosen side and odds of one side against the other, no reference."""

    name: ClassVar[str] = "orpo"
    needs_reference: ClassVar[bool] = False
    lr: float = Field(1e-3, gt=0, description=LR)
    odds_coef: float = Field(1.0, gt=0, description="weight of the odds ratio; that of the supervised loss is 1")


class Simpo(Direct):
    """SimPO: mean log-probabilities compared, with a margin, no reference."""

    name: ClassVar[str] = "simpo"
    needs_reference: ClassVar[bool] = False
    beta: float = Field(5.0, gt=0, description="scale of the rewards, per nat a token")
    gamma: float = Field(1.0, ge=0, description="margin asked for, in units of reward")


class DpoNorm(Direct):
    """DPO on log-ratios averaged over the tokens of a completion."""

    name: ClassVar[str] = "dpo_norm"
    beta: float = Field(5.0, gt=0, description="how dear it is to leave the reference, per nat a token")


class DpoNll(Direct):
    """DPO and the supervised loss of the chosen side."""

    name: ClassVar[str] = "dpo_nll"
    beta: float = Field(0.2, gt=0, description=BETA)
    nll_coef: float = Field(0.2, ge=0, description="weight of the chosen side's loss a token; 0 is DPO")


DirectAlgorithm = Dpo | Cdpo | Ipo | Kto | Orpo | Simpo | DpoNorm | DpoNll
