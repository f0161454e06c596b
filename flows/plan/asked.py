"""What the figures of a stage are worked out from: its command, the settings, the model's sizes and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.plan.passes import Lengths, Rows, largest
from rlhf.footprint import activations, reading, sampling, weights
from rlhf.sizes import How, Pass, Sizes
from tasks.graph import Stage


@dataclass(frozen=True)
class Asked:
    """Of one stage."""

    module: str
    stage: Stage
    section: Mapping[str, Any]
    values: Mapping[str, Any]
    """All of params.yaml, as it is run."""
    sizes: Sizes
    how: How
    lengths: Lengths

    @property
    def new_tokens(self) -> int:
        return int(self.values["generation"]["max_new_tokens"])

    @property
    def alone(self) -> How:
        """As one process has a model that is not trained, or not divided yet."""
        return replace(self.how, shards=1)

    @property
    def policy(self) -> float:
        """Bytes of the model that is there anyway: with adapters their base, which further models share."""
        return weights(self.sizes, self.alone, trained=False)

    def model(self, head: bool = True) -> float:
        """Bytes of one more model; with adapters another adapter on the base that is there.

        On a processor what is never read is never loaded: files of weights are mapped into memory.
        """
        if self.how.method == "full":  # whole on each of several processes
            unread = 0.0 if head or self.sizes.tied or self.how.cuda else self.how.value * self.sizes.embedding
            return self.policy - unread
        beside = 0.0 if self.how.shards == 1 else 1 / self.how.shards  # its share, when it is put together
        return 4.0 * self._adapter * (1 + beside)

    @property
    def _adapter(self) -> int:
        return self.sizes.adapter(self.how.rank)

    @property
    def beside(self) -> list[str]:
        """Kinds of the models beside the one that is trained, or that answers."""
        return beside(self.module, self.stage, self.values)

    @property
    def others(self) -> float:
        """Bytes of the models beside."""
        config = self.values["reward_model"]
        trained_here = self.module == "reward_model"
        reward = self.model(reads_head(config) if trained_here else config["reads"] == "tokens")
        later = 0.0
        if trained_here and self.how.shards > 1 and self.how.method == "full":
            reward += self.how.value * self.sizes.blocks / self.how.shards  # put together, beside its shares
        elif trained_here:  # of models that follow the first on one base each process has gradients and moments whole
            later = (4 + 8) * self._adapter * (1 - 1 / self.how.shards)
        return later + sum(self.model() if kind == "policy" else reward for kind in self.beside)

    @property
    def loaded(self) -> float:
        """Bytes of the model as it is read; of one whose weights are all trained before it is in its precision."""
        from_base = "data/04_base" in self.stage.cmd  # which is kept in float32
        return (4.0 if from_base and self.how.method == "full" else self.how.value) * self.sizes.parameters

    def largest(self, lengths: Lengths, batch_size: int, head: bool = True, **how: bool) -> Rows:
        """The largest pass of the stage's batches."""

        def cost(work: Pass) -> float:
            return activations(self.sizes, self.how, work) + (reading(self.sizes, self.how, work) if head else 0.0)

        return largest(lengths, batch_size, self.section["max_batch_tokens"], cost, **how)

    def sampling(self, rows: int, alike: int = 1) -> float:
        """Bytes of what is sampled at a time, which is whole groups of `alike` completions; the longest come last."""
        at_once = max(alike, min(rows, self.values["generation"]["batch_size"]))
        longest = max(row[0] for row in self.lengths.rows)
        return sampling(self.sizes, self.how, at_once, round(longest) + self.new_tokens)


def reads_head(section: Mapping[str, Any]) -> bool:
    """Whether a pass over pairs reads the LM head, as all do but a plain reward model's."""
    return section.get("reads", "tokens") == "tokens" or bool(section["lm_coef"])


def beside(module: str, stage: Stage, values: Mapping[str, Any]) -> list[str]:
    """Models in memory that are not trained just then: `policy`, or `reward`."""
    members = values["reward_model"]["ensemble"]
    if module == "reward_model":  # the SFT policy, and all that were trained before the last one
        return ["policy", *["reward"] * (2 * members - 1)]
    if module == "rl":  # with adapters the reference is the base itself
        reference = ["policy"] if values["training"]["method"] == "full" else []
        return reference + reward_models(stage, values, ("reward-model", "held-out"))
    if module == "evaluate":
        return ["policy", *reward_models(stage, values, ("policy-rm", "held-out-rm"))]
    if module == "sample":
        return reward_models(stage, values, ("reward-model",))
    return []


def reward_models(stage: Stage, values: Mapping[str, Any], options: tuple[str, ...]) -> list[str]:
    """Those that the command names, each of as many members as an ensemble has."""
    return ["reward"] * (values["reward_model"]["ensemble"] * sum(f"--{option} " in stage.cmd for option in options))
