"""Supervised learning, reward models and direct alignment: one step of the product's training functions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.parity.cases import Case
from bench.parity.ours.common import MAX_TOKENS, STEP, Inputs, Result, one_step, recorded
from rlhf.comparisons import Comparisons
from rlhf.losses.direct_alignment import kto_baseline
from rlhf.models import token_logprobs
from rlhf.preferences import Example, Labelled, example_batch, example_micro_batches, mismatched
from rlhf.reward_training import fit_reward_model
from rlhf.supervised import fit_supervised
from rlhf.trainer import StepBatch
from tasks.config.algorithms import direct
from tasks.dpo_losses import MicroBatch, loss_of

DIRECT: dict[str, Callable[[Mapping[str, Any]], direct.DirectAlgorithm]] = {
    "DPO": lambda knobs: direct.Dpo(**knobs),
    "DPO norm": lambda knobs: direct.DpoNorm(**knobs),
    "DPO + NLL": lambda knobs: direct.DpoNll(beta=knobs["beta"], nll_coef=knobs["loss_weights"][1]),
    "IPO": lambda knobs: direct.Ipo(**knobs),
    "KTO": lambda knobs: direct.Kto(**knobs),
    "ORPO": lambda knobs: direct.Orpo(odds_coef=knobs["beta"]),
    "SimPO": lambda knobs: direct.Simpo(beta=knobs["beta"], gamma=knobs["simpo_gamma"]),
}


def sft(case: Case, inputs: Inputs) -> Result:
    policy = inputs.policy()
    rows = [
        (row["prompt"] + row["chosen"], [False] * len(row["prompt"]) + [True] * len(row["chosen"]))
        for row in inputs.batches[case.batch]
    ]
    with recorded() as step:
        fit_supervised(
            policy, rows, epochs=1, batch_size=len(rows), max_batch_tokens=MAX_TOKENS // 2, log=step.log, **STEP
        )
    return step.loss, step.gradients[id(policy.model)]


def reward(case: Case, inputs: Inputs) -> Result:
    model = inputs.scorer()
    rows = inputs.batches[case.batch]
    prompts = [Comparisons("", row["prompt"], [row["chosen"], row["rejected"]], [(0, 1)]) for row in rows]
    with recorded() as step:
        fit_reward_model(
            model, prompts, epochs=1, batch_size=len(rows), max_batch_tokens=MAX_TOKENS, lm_coef=0.0,
            centring=case.knobs["center_rewards_coefficient"], log=step.log, **STEP,
        )  # fmt: skip
    heads, backbone = (step.gradients[key] for key in sorted(step.gradients, key=lambda key: key == id(model.model)))
    return step.loss, backbone | {"score.weight": heads["0.weight"]}


def directly(case: Case, inputs: Inputs) -> Result:
    """Direct alignment: as stage `dpo` makes its steps."""
    policy, reference = inputs.policy(), inputs.policy("reference")
    algorithm = DIRECT[case.method](case.knobs)
    rows = inputs.batches[case.batch]
    judged = [Labelled(row["prompt"], row["completion"], row["label"]) for row in rows if "label" in row]
    examples: list[Example] = [(one,) for one in judged] or [
        (Labelled(row["prompt"], row["chosen"], True), Labelled(row["prompt"], row["rejected"], False)) for row in rows
    ]

    def summed(model: Any, some: list[Example]) -> Tensor:
        with torch.no_grad():
            return token_logprobs(model, example_batch(some, policy.chat.pad_id)[0]).sum(dim=1)

    baseline = 0.0
    if judged:
        other = [(one,) for one in mismatched(judged)]
        baseline = kto_baseline(summed(policy.model, other), summed(reference.model, other))

    def micro_batch(indices: list[int]) -> MicroBatch:
        some = [examples[index] for index in indices]
        batch, desirable = example_batch(some, policy.chat.pad_id)
        return MicroBatch(batch, desirable, summed(reference.model, some), baseline)

    parts = [micro_batch(indices) for indices in example_micro_batches(examples, MAX_TOKENS)]
    return one_step({"policy": policy.model}, StepBatch(parts, len(examples)), lambda part: summed_loss(
        loss_of(algorithm, policy.model, part)))  # fmt: skip


def summed_loss(result: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    return result[0].sum(), result[1]
