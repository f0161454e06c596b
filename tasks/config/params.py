"""The whole of params.yaml as one typed model. Only flows and tools import this; a stage reads its own section."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, create_model

from tasks.config import ConfigError, Section
from tasks.config.algorithms.direct import Cdpo, Dpo, DpoNll, DpoNorm, Ipo, Kto, Orpo, Simpo
from tasks.config.algorithms.on_policy import (
    Cispo,
    Dapo,
    DrGrpo,
    Grpo,
    Gspo,
    OnlineDpo,
    Ppo,
    Reinforce,
    ReinforcePlusPlus,
    Rloo,
)
from tasks.config.annotate import Annotate
from tasks.config.base import Base
from tasks.config.collect import Collect
from tasks.config.dpo import DirectAlignment
from tasks.config.evaluate import Evaluate
from tasks.config.folds import Folds
from tasks.config.gate import Gate
from tasks.config.generation import Generation
from tasks.config.pools import Pool
from tasks.config.prepare import Prepare
from tasks.config.registry import Registry
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.reward_model import RewardModel
from tasks.config.rl import Rl
from tasks.config.sample import Sample
from tasks.config.sft import Sft
from tasks.config.sources import Source
from tasks.config.training import Training
from tasks.config.trajectory import Trajectory
from tasks.config.validate import Validate
from tasks.config.withdraw import Withdraw


class Algorithms(Section):
    """One block an algorithm."""

    reinforce: Reinforce = Field(default_factory=Reinforce, description="batch mean as baseline")
    rloo: Rloo = Field(default_factory=Rloo, description="leave-one-out baseline")
    ppo: Ppo = Field(default_factory=Ppo, description="with a critic")
    grpo: Grpo = Field(default_factory=Grpo, description="rewards normalised within the group")
    dr_grpo: DrGrpo = Field(default_factory=DrGrpo, description="GRPO without its divisions by spread and length")
    dapo: Dapo = Field(default_factory=Dapo, description="GRPO with dynamic sampling and room above")
    gspo: Gspo = Field(default_factory=Gspo, description="one ratio a completion")
    cispo: Cispo = Field(default_factory=Cispo, description="weights clipped, never tokens")
    reinforce_plus_plus: ReinforcePlusPlus = Field(
        default_factory=ReinforcePlusPlus, description="returns from each token on, normalised over the batch"
    )
    online_dpo: OnlineDpo = Field(default_factory=OnlineDpo, description="best and worst of the group as a pair")
    dpo: Dpo = Field(default_factory=Dpo, description="implicit reward fitted to preferences")
    cdpo: Cdpo = Field(default_factory=Cdpo, description="DPO for labels that are wrong at times")
    ipo: Ipo = Field(default_factory=Ipo, description="log-ratios fitted to a fixed gap")
    kto: Kto = Field(default_factory=Kto, description="completions good or bad by themselves")
    orpo: Orpo = Field(default_factory=Orpo, description="supervised loss and odds ratio, no reference")
    simpo: Simpo = Field(default_factory=Simpo, description="mean log-probabilities with a margin, no reference")
    dpo_norm: DpoNorm = Field(default_factory=DpoNorm, description="DPO, averaged over tokens")
    dpo_nll: DpoNll = Field(default_factory=DpoNll, description="DPO and the supervised loss of the chosen side")


class Params(Section):
    """Everything that decides a run: seeds, one section a stage, one block an algorithm."""

    seed: int = Field(0, ge=0, description="drives training and sampling from `sft` on")
    threads: int = Field(1, ge=1, description="torch threads of a stage; changes bytes, so it is part of every key")
    registry: Registry = Field(default_factory=Registry, description="where a promoted policy goes")
    sources: tuple[Source, ...] = Field((), description="files brought into data/inbox before a run")
    pools: dict[str, Pool] = Field(
        default_factory=dict,
        description="Prefect work pool by stage, `rl: gpu` or `rl: {pool: gpu, job_variables: {gpus: 4}}`; one that is "
        "not named runs where the run does",
    )
    withdraw: Withdraw = Field(default_factory=Withdraw, description="rows that nothing may be made of any more")
    collect: Collect = Field(default_factory=Collect, description="bring in the data, or make it")
    prepare: Prepare = Field(default_factory=Prepare, description="one schema, splits by group")
    validate_: Validate = Field(default_factory=Validate, alias="validate", description="the data gate")
    generation: Generation = Field(default_factory=Generation, description="how every stage samples and scores")
    training: Training = Field(default_factory=Training, description="all weights, or adapters on a frozen base")
    base: Base = Field(default_factory=Base, description="the model that everything starts from")
    sft: Sft = Field(default_factory=Sft, description="instruction tuning")
    annotate: Annotate = Field(default_factory=Annotate, description="preferences to learn from")
    reward_model: RewardModel = Field(default_factory=RewardModel, description="what is liked, learnt")
    sample: Sample = Field(default_factory=Sample, description="the rollout store")
    rejection_sampling: RejectionSampling = Field(default_factory=RejectionSampling, description="best of N, kept")
    rl: Rl = Field(default_factory=Rl, description="policy gradients on a leash")
    algorithms: Algorithms = Field(
        default_factory=Algorithms, description="one block an algorithm; `rl` and `dpo` name theirs"
    )
    dpo: DirectAlignment = Field(default_factory=DirectAlignment, description="direct alignment")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="every policy, the same prompts")
    folds: Folds = Field(
        default_factory=Folds, description="cross-validation of the reward model; in profile `hh` only"
    )
    trajectory: Trajectory = Field(
        default_factory=Trajectory, description="policies along an RL run; in profile `over-optimisation` only"
    )
    gate: Gate = Field(default_factory=Gate, description="promote or not")


def with_sections(further: Mapping[str, str]) -> type[Params]:
    """The model of params.yaml for a graph that has further sections, {section: stage module whose knobs it has}.

    Raises:
        ConfigError: no module of that name, or a section that is another module's.
    """
    known = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}
    fields: dict[str, Any] = {}
    for section, module in further.items():
        kind = known.get(module)
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            raise ConfigError(f"dvc.yaml: `python -m tasks.{module} --params {section}`: no stage has this module")
        if section in known:
            raise ConfigError(f"dvc.yaml: tasks.{module} cannot have section `{section}`, which is taken; name another")
        fields[section] = (kind, Field(default_factory=kind, description=f"as `{module}`"))
    return create_model("Params", __base__=Params, **fields) if fields else Params
