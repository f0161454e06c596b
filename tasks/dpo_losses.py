"""From a batch of judged completions to the loss that an algorithm's block asks for."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf.batching import Batch
from rlhf.losses import direct_alignment as losses
from rlhf.models import token_logprobs
from rlhf.preferences import split_sides
from rlhf.trainer import Metrics
from tasks.config.algorithms.direct import Cdpo, DirectAlgorithm, Dpo, DpoNll, DpoNorm, Ipo, Kto, Orpo, Simpo


@dataclass(frozen=True)
class MicroBatch:
    """N sequences, of pairs the chosen ones first."""

    batch: Batch
    desirable: Tensor
    """[N] bool."""
    ref_logprobs: Tensor
    """[N] summed over tokens; zeros where the method has no reference."""
    baseline: float
    """KTO's z of the whole step; 0 for all others."""


def loss_of(algorithm: DirectAlgorithm, model: Any, micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
    """One loss an example, and its metrics; `chosen_logprob` and `rejected_logprob` are means over tokens."""
    logprobs = token_logprobs(model, micro_batch.batch).sum(dim=1)  # [N]
    lengths = micro_batch.batch.loss_mask.sum(dim=1)
    if isinstance(algorithm, Kto):
        values, metrics = losses.kto(
            logprobs, micro_batch.ref_logprobs, micro_batch.desirable, micro_batch.baseline,
            algorithm.beta, algorithm.desirable_weight, algorithm.undesirable_weight,
        )  # fmt: skip
    else:
        values, metrics = _pair_loss(algorithm, logprobs, micro_batch.ref_logprobs, lengths)
    means = logprobs.detach() / lengths
    sides = {
        "chosen_logprob": means[micro_batch.desirable],
        "rejected_logprob": means[~micro_batch.desirable],
    }
    return values, metrics | sides


def _pair_loss(
    algorithm: DirectAlgorithm, logprobs: Tensor, ref_logprobs: Tensor, lengths: Tensor
) -> tuple[Tensor, Metrics]:
    """The method's loss of each pair; all arguments [2B], the chosen ones first."""
    sides, lengths_of_sides = split_sides(logprobs), split_sides(lengths)
    with_reference = (*sides, *split_sides(ref_logprobs))
    match algorithm:
        case Dpo():
            return losses.dpo(*with_reference, algorithm.beta)
        case Cdpo():
            return losses.cdpo(*with_reference, algorithm.beta, algorithm.label_smoothing)
        case Ipo():
            return losses.ipo(*with_reference, algorithm.beta)
        case DpoNorm():
            return losses.dpo_norm(*with_reference, *lengths_of_sides, algorithm.beta)
        case DpoNll():
            return losses.dpo_nll(*with_reference, lengths_of_sides[0], algorithm.beta, algorithm.nll_coef)
        case Orpo():
            return losses.orpo(*sides, *lengths_of_sides, algorithm.odds_coef)
        case Simpo():
            return losses.simpo(*sides, *lengths_of_sides, algorithm.beta, algorithm.gamma)
        case Kto():
            raise TypeError("KTO has no loss of pairs")
