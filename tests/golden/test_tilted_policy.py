"""Every way of learning from the same reward ends where its own theory says, and only some end at the same policy.

π* = π_ref exp(r/β) / Z is the best policy under the leash. On languages small enough to sum over, rewards, KL,
advantages, ratio, aggregation, critic and the optimiser loop are all held by where training ends: a wrong sign or a
misplaced reward anywhere ends elsewhere. Theory comes from tests/golden/fixed_points.py, which shares no code with the
library.
"""

from dataclasses import replace

import pytest
from torch import Tensor

from tests.golden.fixed_points import centred_of_two, plain
from tests.golden.language import LANGUAGES, tilted, total_variation
from tests.golden.methods import BACKWARDS, BETA, ELSEWHERE, ON_TARGET, UNLEASHED, Method, from_target, theory
from tests.golden.training import train

LIMIT = 0.02
by_language = pytest.mark.parametrize("language", LANGUAGES)


def by_name(*methods: Method) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=[method.about for method in methods])


def found(method: Method, language: str) -> Tensor:
    words = LANGUAGES[language]
    return train(
        method.make(), words, method.beta, draw=method.draw(words), inner_steps=method.inner_steps,
        updates=method.updates, lr=method.lr,
    )  # fmt: skip


@by_language
@by_name(*ON_TARGET, *ELSEWHERE)
def test_training_ends_at_the_fixed_point(method: Method, language: str) -> None:
    assert total_variation(found(method, language), theory(method, language)) < LIMIT


@by_language
@by_name(*ON_TARGET)
def test_k1_in_the_reward_makes_that_the_tilted_policy(method: Method, language: str) -> None:
    assert from_target(method, language) < 1e-6


@by_name(*[method for method in ELSEWHERE if method.kl == "k2" and method.credit is plain])
def test_k2_in_the_loss_does_so_where_a_sentence_is_one_token(method: Method) -> None:
    """With two, the first token does not answer for the KL of the second, so the fixed point is another."""
    assert from_target(method, "one token") < 1e-6
    assert from_target(method, "two tokens") > 0.05


def test_centring_in_groups_of_two_doubles_the_coefficient() -> None:
    """Dr. GRPO's advantages are (G − 1)/G of the reward's; a KL penalty in the loss is not shrunk with them."""
    method = next(method for method in ELSEWHERE if method.credit is centred_of_two)
    words = LANGUAGES["one token"]
    assert total_variation(theory(method, "one token"), tilted(words, 2 * method.beta)) < 1e-6


@by_language
@by_name(*UNLEASHED)
def test_without_a_leash_one_sentence_remains(method: Method, language: str) -> None:
    """Theory has the best one, from anywhere; a sampler may lose it on the way and end at another."""
    assert theory(method, language).max() > 0.999
    assert (theory(method, language).flatten().argmax() == LANGUAGES[language].rewards.flatten().argmax()).item()
    assert found(replace(method, updates=120), language).max() > 0.97


@by_language
@by_name(*BACKWARDS)
def test_k2_and_k3_in_the_reward_make_rare_sentences_rarer(method: Method, language: str) -> None:
    words = LANGUAGES[language]
    ended, target = found(method, language), tilted(words, method.beta)
    losing = words.rewards < words.rewards.mean()
    assert ended[losing].sum() < 0.1 * target[losing].sum()
    assert total_variation(ended, target) > 0.1


@by_language
def test_the_target_is_far_from_the_start(language: str) -> None:
    words = LANGUAGES[language]
    assert total_variation(words.reference.exp(), tilted(words, BETA)) > 0.25
