"""Direct alignment on endless Bradley-Terry labels: every ordered pair, weighed by P(first is preferred) = σ(r − r').

DPO must end at the same π* as the policy gradients. The others have closed forms of their own, given beside them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.losses.direct_alignment import cdpo, dpo, dpo_nll, dpo_norm, ipo, simpo
from rlhf.trainer import OptimizerSettings, StepBatch, fit
from tests.golden.language import LANGUAGES, Language, TablePolicy, tilted, total_variation

BETA = 0.3
Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def train(language: Language, loss: Loss, steps: int = 150) -> Tensor:
    """π(y) [4] * L. `loss` takes log π of both sides, of the reference too, and lengths."""
    policy, reference = TablePolicy(language), language.reference.flatten()
    rewards, length = language.rewards.flatten(), language.rewards.dim()
    first, second = torch.combinations(torch.arange(len(rewards))).T
    wins = torch.sigmoid(rewards[first] - rewards[second])
    chosen, rejected, weights = torch.cat([first, second]), torch.cat([second, first]), torch.cat([wins, 1 - wins])
    lengths = torch.full((len(chosen),), length)

    def pairs_loss(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        table = policy.table().flatten()
        losses, metrics = loss(
            chosen=table[chosen], rejected=table[rejected], ref_chosen=reference[chosen],
            ref_rejected=reference[rejected], chosen_lengths=lengths, rejected_lengths=lengths,
        )  # fmt: skip
        return (weights * losses).sum(), metrics

    fit(
        {"policy": policy}, steps=steps, batch_at=lambda step: StepBatch([step], weights.sum().item()),
        loss=pairs_loss, optimizer=OptimizerSettings(lr=0.15, schedule="linear", betas=(0.8, 0.9), eps=1e-8),
        seed=0, name="golden",
    )  # fmt: skip
    return policy.table().detach().exp()


def paired(loss: Loss, *names: str, **knobs: float) -> Loss:
    """The loss with its knobs set, given only the inputs it takes."""

    def call(**given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(**{name: given[name] for name in ("chosen", "rejected", *names)}, **knobs)

    return call


REFERENCES, LENGTHS = ("ref_chosen", "ref_rejected"), ("chosen_lengths", "rejected_lengths")


def uniform(language: Language, exponent: float) -> Tensor:
    """∝ exp(exponent · r)."""
    return (language.rewards.double() * exponent).flatten().softmax(0).view(language.rewards.shape)


def azar(language: Language) -> Tensor:
    """IPO's optimum: π_ref · exp(share of sentences that y is preferred to / β), Azar et al., theorem 1."""
    rewards = language.rewards.double().flatten()
    wins = torch.sigmoid(rewards[:, None] - rewards).fill_diagonal_(0.0).sum(1) / len(rewards)
    return (language.reference.double().flatten() + wins / BETA).softmax(0).view(language.rewards.shape)


CLOSED_FORMS = {
    "dpo": (paired(dpo, *REFERENCES, beta=BETA), lambda language: tilted(language, BETA)),
    "cdpo without smoothing": (
        paired(cdpo, *REFERENCES, beta=BETA, label_smoothing=0.0),
        lambda language: tilted(language, BETA),
    ),
    "dpo_nll without NLL": (
        paired(dpo_nll, *REFERENCES, "chosen_lengths", beta=BETA, nll_coef=0.0),
        lambda language: tilted(language, BETA),
    ),
    "dpo_norm": (  # a mean over L tokens: β/L
        paired(dpo_norm, *REFERENCES, *LENGTHS, beta=BETA),
        lambda language: tilted(language, BETA / language.rewards.dim()),
    ),
    "simpo without margin": (  # the same without a reference
        paired(simpo, *LENGTHS, beta=1.0, gamma=0.0),
        lambda language: uniform(language, language.rewards.dim()),
    ),
    "ipo": (paired(ipo, *REFERENCES, beta=BETA), azar),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_ends_at_its_closed_form(name: str, language: str) -> None:
    loss, target = CLOSED_FORMS[name]
    assert total_variation(train(LANGUAGES[language], loss), target(LANGUAGES[language])) < 0.02


@pytest.mark.parametrize("language", LANGUAGES)
def test_doubting_labels_that_are_right_stays_nearer_to_the_reference(language: str) -> None:
    """cDPO fits σ(βh) = (1 − 2ε) p + ε instead of p."""
    words = LANGUAGES[language]
    doubting = train(words, paired(cdpo, *REFERENCES, beta=BETA, label_smoothing=0.2))
    away, target = (total_variation(table, words.reference.exp()) for table in (doubting, tilted(words, BETA)))
    assert away < 0.9 * target
