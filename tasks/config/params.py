"""The whole of params.yaml as one typed model. Only flows and tools import this; a stage reads its own section."""

from pydantic import Field

from tasks.config import Section
from tasks.config.algorithms.on_policy import Grpo, Ppo, Reinforce, Rloo
from tasks.config.annotate import Annotate
from tasks.config.base import Base
from tasks.config.collect import Collect
from tasks.config.dpo import Dpo
from tasks.config.evaluate import Evaluate
from tasks.config.gate import Gate
from tasks.config.generation import Generation
from tasks.config.prepare import Prepare
from tasks.config.registry import Registry
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.reward_model import RewardModel
from tasks.config.rl import Rl
from tasks.config.sample import Sample
from tasks.config.sft import Sft
from tasks.config.sources import Source
from tasks.config.validate import Validate


class Algorithms(Section):
    """One block an algorithm."""

    reinforce: Reinforce = Field(default_factory=Reinforce, description="batch mean as baseline")
    rloo: Rloo = Field(default_factory=Rloo, description="leave-one-out baseline")
    grpo: Grpo = Field(default_factory=Grpo, description="rewards normalised within the group")
    ppo: Ppo = Field(default_factory=Ppo, description="with a critic")


class Params(Section):
    """Everything that decides a run: seeds, one section a stage, one block an algorithm."""

    seed: int = Field(0, ge=0, description="drives training and sampling from `sft` on")
    threads: int = Field(1, ge=1, description="torch threads of a stage; changes bytes, so it is part of every key")
    registry: Registry = Field(default_factory=Registry, description="where a promoted policy goes")
    sources: tuple[Source, ...] = Field((), description="files brought into data/inbox before a run")
    collect: Collect = Field(default_factory=Collect, description="bring in the data, or make it")
    prepare: Prepare = Field(default_factory=Prepare, description="one schema, splits by group")
    validate_: Validate = Field(default_factory=Validate, alias="validate", description="the data gate")
    generation: Generation = Field(default_factory=Generation, description="how every stage samples and scores")
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
    dpo: Dpo = Field(default_factory=Dpo, description="direct alignment")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="every policy, the same prompts")
    gate: Gate = Field(default_factory=Gate, description="promote or not")
