"""What each stage of a graph holds in memory at its peak, from its section of params.yaml and the model's sizes.

Which models a stage has is read from its command: `--reward-model` and the like are the folders that it loads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.plan_passes import Lengths, Rows, largest
from rlhf.footprint import (
    How,
    Pass,
    Sizes,
    Terms,
    activations,
    logits,
    sampling,
    scoring,
    step,
    total,
    trained,
    weights,
)
from tasks.graph import SECTION, Stage

SCORED_AT_ONCE = 64
"""Prompts whose answers are drawn to find the largest pass of a stage that scores; it scores all of them in a row."""


@dataclass(frozen=True)
class Need:
    """What a stage takes at its peak."""

    stage: str
    parameters: int
    trained: int
    terms: Terms
    """Bytes by name."""
    moment: str
    """`training`, `sampling`, `scoring` or `reading`."""
    moments: dict[str, Terms]
    """All of them."""
    work: Rows | None
    """The largest pass of training; None where nothing is trained."""

    @property
    def peak(self) -> float:
        """Bytes of tensors; what the libraries themselves take comes on top."""
        return total(self.terms)

    def with_training(self, terms: Terms) -> "Need":
        """The same, where training takes this."""
        moments = self.moments | {"training": terms}
        moment = max(moments, key=lambda one: total(moments[one]))
        return replace(self, terms=moments[moment], moment=moment, moments=moments)


@dataclass(frozen=True)
class Asked:
    """What a stage's figures are worked out from."""

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

    def loads(self, option: str) -> bool:
        """Whether the command names this folder."""
        return f"--{option} " in self.stage.cmd

    @property
    def policy(self) -> float:
        """Bytes of the model that is there anyway: with adapters their base, which further models share."""
        return weights(self.sizes, replace(self.how, shards=1), trained=False)

    def model(self, trained: bool = False, head: bool = True) -> float:
        """Bytes of one more model; with adapters another adapter on the base that is there.

        On a processor what is never read is never loaded: files of weights are mapped into memory.
        """
        if self.how.method == "full":  # whole on each of several processes
            unread = 0.0 if head or self.sizes.tied or self.how.cuda else self.how.value * self.sizes.embedding
            return weights(self.sizes, replace(self.how, shards=1), trained) - unread
        return 4.0 * self.sizes.adapter(self.how.rank)

    def largest(self, lengths: Lengths, batch_size: int, head: bool = True, **how: bool) -> Rows:
        """The largest pass of the stage's batches."""

        def cost(work: Pass) -> float:
            return activations(self.sizes, self.how, work) + (logits(self.sizes, work) if head else 0.0)

        return largest(lengths, batch_size, self.section["max_batch_tokens"], cost, **how)

    def sampling(self, rows: int, alike: int = 1) -> float:
        """Bytes of what is sampled at a time, which is whole groups of `alike` completions; the longest come last."""
        at_once = max(alike, min(rows, self.values["generation"]["batch_size"]))
        longest = max(row[0] for row in self.lengths.rows)
        return sampling(self.sizes, self.how, at_once, round(longest) + self.new_tokens)


def module_of(stage: Stage) -> tuple[str, str] | None:
    """Module and section of a stage that uses a model; None for one that has none."""
    match = SECTION.search(stage.cmd)
    return (match[1], match[2]) if match and match[1] in PLANS else None


def need(stage: Stage, values: Mapping[str, Any], sizes: Sizes, how: How, lengths: Lengths) -> Need:
    """What a stage takes with these settings; one that uses a model, as `module_of` says."""
    named = module_of(stage)
    assert named is not None, f"{stage.name} uses no model"
    module, section = named
    asked = Asked(stage, values[section], values, sizes, how, lengths)
    moments = PLANS[module](asked)
    moment = max(moments, key=lambda one: total(moments[one]))
    learns = trained(sizes, how) if "training" in moments else 0
    work = PASSES[module](asked) if learns else None
    return Need(stage.name, sizes.parameters, learns, moments[moment], moment, moments, work)


Moments = dict[str, Terms]


def _rows(asked: Asked) -> Rows:
    section, whole = asked.section, "source" in asked.section  # documents, of section `base`
    lengths = asked.lengths.cut(section["max_tokens"]) if "max_tokens" in section else asked.lengths
    return asked.largest(lengths, section["batch_size"], by_length=True, whole=whole)


def _supervised(asked: Asked) -> Moments:
    samples = _answers(asked, asked.section.get("num_samples", 0))
    return {"training": step(asked.sizes, asked.how, _rows(asked))} | samples


def _from_corpus(asked: Asked) -> Moments:
    if asked.section["source"] == "checkpoint":  # read and written by the processor, also where there is a GPU
        return {"reading": {} if asked.how.cuda else {"weights": weights(asked.sizes, How(), trained=False)}}
    return {"training": step(asked.sizes, How(), _rows(asked))}


def _answers(asked: Asked, rows: int, alike: int = 1) -> Moments:
    if not rows:
        return {}
    return {"sampling": {"weights": asked.policy, "keys and values": asked.sampling(rows, alike)}}


def _pairs(asked: Asked) -> Rows:
    section = asked.section
    return asked.largest(asked.lengths, section["batch_size"], reads_head(section), together=True)


def reads_head(section: Mapping[str, Any]) -> bool:
    """Whether a pass over pairs reads the LM head, as all do but a plain reward model's."""
    return section.get("reads", "tokens") == "tokens" or bool(section["lm_coef"])


def _reward_model(asked: Asked) -> Moments:
    head, work = reads_head(asked.section), _pairs(asked)
    beside = 2 * asked.model()  # the SFT policy, and the first of the two models while the second is trained
    return {"training": step(asked.sizes, asked.how, work, head=head) | {"other models": beside}}


def _dpo(asked: Asked) -> Moments:
    """The reference answers before, and is the policy itself."""
    return {"training": step(asked.sizes, asked.how, _pairs(asked))}


def _samples(asked: Asked) -> Moments:
    section = asked.section
    return _answers(asked, section["num_prompts"] * section["group_size"], section["group_size"])


def _scored_samples(asked: Asked) -> Moments:
    section = asked.section
    rows = section["num_prompts"] * section["group_size"]
    return _sampled_and_scored(asked, rows, section["group_size"], _reward_models(asked, ("reward-model",)))


def _sampled_and_scored(asked: Asked, rows: int, alike: int, others: float) -> Moments:
    """One model's answers, `alike` to a prompt, and `others` that judge them."""
    beside = {"weights": asked.policy, "other models": others}
    work = _completed(asked, SCORED_AT_ONCE, alike)
    return {
        "sampling": beside | {"keys and values": asked.sampling(rows, alike)},
        "scoring": beside | {"activations": scoring(asked.sizes, asked.how, work, True)},
    }


def _completed(asked: Asked, prompts: int, answers: int) -> Rows:
    """The largest pass over so many answers of full length to each of the prompts."""
    return asked.largest(asked.lengths.answered(answers, asked.new_tokens), prompts)


def _rollouts(asked: Asked) -> Rows:
    algorithm = asked.values["algorithms"][asked.section["algorithm"]]
    return _completed(asked, algorithm["prompts_per_update"], algorithm["group_size"])


def _rl(asked: Asked) -> Moments:
    algorithm = asked.values["algorithms"][asked.section["algorithm"]]
    rows = algorithm["prompts_per_update"] * algorithm["group_size"]
    served = asked.section["sampler"] == "server"
    others = asked.model() if asked.how.method == "full" else 0.0  # with adapters the reference is the base itself
    others += _reward_models(asked, ("reward-model", "held-out"))
    work = _rollouts(asked)
    learner = step(asked.sizes, asked.how, work)
    if asked.section["algorithm"] == "ppo":
        critic = step(asked.sizes, asked.how, work, head=False)
        if asked.how.method != "full":
            critic["weights"] = asked.model(trained=True)
        learner = {name: learner[name] + critic[name] for name in learner}
    whole = weights(asked.sizes, asked.how, trained=True) * (2 if asked.section["algorithm"] == "ppo" else 1)
    if asked.how.method != "full":
        whole = learner["weights"]
    kept = {"weights": whole, "moments": learner["moments"], "other models": others}
    return {
        "training": learner | {"other models": others},
        "sampling": kept | {"keys and values": 0.0 if served else asked.sampling(rows, algorithm["group_size"])},
        "scoring": kept | {"activations": scoring(asked.sizes, asked.how, work, True)},
    }


def _reward_models(asked: Asked, options: tuple[str, ...]) -> float:
    """Bytes of the reward models that the command names, each of as many members as an ensemble has."""
    config = asked.values["reward_model"]
    one = asked.model(head=config["reads"] == "tokens")
    return sum(config["ensemble"] * one for option in options if asked.loads(option))


def _evaluate(asked: Asked) -> Moments:
    section = asked.section
    others = asked.model() + _reward_models(asked, ("policy-rm", "held-out-rm"))
    alike = section["samples_per_prompt"]
    return _sampled_and_scored(asked, section["num_prompts"] * alike, alike, others)


PLANS: Mapping[str, Callable[[Asked], Moments]] = {
    "base": _from_corpus,
    "sft": _supervised,
    "annotate": _samples,
    "reward_model": _reward_model,
    "dpo": _dpo,
    "sample": _scored_samples,
    "rejection_sampling": _supervised,
    "rl": _rl,
    "evaluate": _evaluate,
}
"""By module; the other stages have no model."""
PASSES: Mapping[str, Callable[[Asked], Rows]] = {
    "base": _rows,
    "sft": _rows,
    "reward_model": _pairs,
    "dpo": _pairs,
    "rejection_sampling": _rows,
    "rl": _rollouts,
}
"""The largest pass of training by module."""
