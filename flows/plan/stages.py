"""What each stage of a graph holds in memory at its peak, from its section of params.yaml and the model's sizes.

Which models a stage has is read from its command: `--reward-model` and the like are the folders that it loads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.plan.asked import Asked, reads_head
from flows.plan.passes import Lengths, Rows
from rlhf.footprint import Terms, gathered, scoring, step, total, trained, weights
from rlhf.sizes import How, Sizes
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
    """`training`, `sampling`, `scoring`, `reading`, or of weights that processes divide `loading` or `gathering`."""
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


def module_of(stage: Stage) -> tuple[str, str] | None:
    """Module and section of a stage that uses a model; None for one that has none."""
    match = SECTION.search(stage.cmd)
    return (match[1], match[2]) if match and match[1] in PLANS else None


def need(stage: Stage, values: Mapping[str, Any], sizes: Sizes, how: How, lengths: Lengths) -> Need:
    """What a stage takes with these settings; one that uses a model, as `module_of` says."""
    named = module_of(stage)
    assert named is not None, f"{stage.name} uses no model"
    module, section = named
    asked = Asked(module, stage, values[section], values, sizes, how, lengths)
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
    samples = _answers(asked, weights(asked.sizes, asked.how, trained=False), asked.section.get("num_samples", 0))
    return _trained(asked, step(asked.sizes, asked.how, _rows(asked))) | samples


def _trained(asked: Asked, learner: Terms, head: bool = True, loaded: float | None = None) -> Moments:
    """Of one model, and of further ones beside it.

    One that processes divide is whole when it is loaded, and again before each step and after the last, when its
    moments and float32 copies are there.
    """
    others = {"other models": asked.others} if asked.beside else {}
    found = {"training": learner | others}
    if asked.how.shards > 1:
        found["loading"] = {"weights": loaded or asked.loaded} | others
        found["gathering"] = gathered(asked.sizes, asked.how, head) | others
    return found


def _from_corpus(asked: Asked) -> Moments:
    if asked.section["source"] == "checkpoint":  # read and written by the processor, also where there is a GPU
        return {"reading": {} if asked.how.cuda else {"weights": weights(asked.sizes, How(), trained=False)}}
    return {"training": step(asked.sizes, How(), _rows(asked))}


def _answers(asked: Asked, policy: float, rows: int, alike: int = 1) -> Moments:
    if not rows:
        return {}
    return {"sampling": {"weights": policy, "keys and values": asked.sampling(rows, alike)}}


def _pairs(asked: Asked) -> Rows:
    section = asked.section
    return asked.largest(asked.lengths, section["batch_size"], reads_head(section), together=True)


def _reward_model(asked: Asked) -> Moments:
    head, work = reads_head(asked.section), _pairs(asked)
    return _trained(asked, step(asked.sizes, asked.how, work, head=head), head)


def _dpo(asked: Asked) -> Moments:
    """The reference answers before, and is the policy itself."""
    return _trained(asked, step(asked.sizes, asked.how, _pairs(asked)))


def _samples(asked: Asked) -> Moments:
    section = asked.section
    return _answers(asked, asked.policy, section["num_prompts"] * section["group_size"], section["group_size"])


def _scored_samples(asked: Asked) -> Moments:
    section = asked.section
    return _sampled_and_scored(asked, section["num_prompts"] * section["group_size"], section["group_size"])


def _sampled_and_scored(asked: Asked, rows: int, alike: int) -> Moments:
    """One model's answers, `alike` to a prompt, and others that judge them."""
    kept = {"weights": asked.policy, "other models": asked.others}
    work = _completed(asked, SCORED_AT_ONCE, alike)
    return {
        "sampling": kept | {"keys and values": asked.sampling(rows, alike)},
        "scoring": kept | {"activations": scoring(asked.sizes, asked.how, work, True)},
    }


def _completed(asked: Asked, prompts: int, answers: int) -> Rows:
    """The largest pass over so many answers of full length to each of the prompts."""
    return asked.largest(asked.lengths.answered(answers, asked.new_tokens), prompts)


def _rollouts(asked: Asked) -> Rows:
    algorithm = asked.values["algorithms"][asked.section["algorithm"]]
    return _completed(asked, algorithm["prompts_per_update"], algorithm["group_size"])


def _rl(asked: Asked) -> Moments:
    """The learner, of PPO with its critic, and what stays of both while the policy answers and is scored."""
    algorithm = asked.values["algorithms"][asked.section["algorithm"]]
    rows = algorithm["prompts_per_update"] * algorithm["group_size"]
    served = asked.section["sampler"] == "server"
    work = _rollouts(asked)
    learner, kept, loaded = step(asked.sizes, asked.how, work), gathered(asked.sizes, asked.how), asked.loaded
    if asked.section["algorithm"] == "ppo":
        critic, whole = step(asked.sizes, asked.how, work, head=False), gathered(asked.sizes, asked.how, head=False)
        if asked.how.method != "full":
            critic["weights"] = whole["weights"] = asked.model()
        learner = {name: learner[name] + critic[name] for name in learner}
        kept = {name: kept[name] + whole[name] for name in kept}
        loaded += asked.model()
    kept |= {"other models": asked.others}
    return _trained(asked, learner, loaded=loaded) | {
        "sampling": kept | {"keys and values": 0.0 if served else asked.sampling(rows, algorithm["group_size"])},
        "scoring": kept | {"activations": scoring(asked.sizes, asked.how, work, True)},
    }


def _evaluate(asked: Asked) -> Moments:
    alike = asked.section["samples_per_prompt"]
    return _sampled_and_scored(asked, asked.section["num_prompts"] * alike, alike)


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
