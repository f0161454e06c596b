"""Chosen log-probabilities and entropies against log_softmax in float64, gradients by autograd through that."""

import math

import pytest
import torch

from rlhf.ledger import Ledger
from rlhf.models.logprobs import picked_logprobs


def test_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])
    logprobs, entropy = picked_logprobs(logits, torch.tensor([1, 0]), with_entropy=True)
    assert logprobs.tolist() == pytest.approx([math.log(0.75), math.log(0.5)], abs=1e-6)
    assert entropy.tolist() == pytest.approx([0.5623351, math.log(2)], abs=1e-6)
    assert not picked_logprobs(logits, torch.tensor([1, 0]))[1].any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("at_once", [1, 50, 2**18])
def test_values_and_gradient_whatever_is_worked_on_at_a_time(
    temperature: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.models.logprobs.VALUES_AT_ONCE", at_once)
    made = torch.Generator().manual_seed(0)
    states = torch.randn(7, 5, generator=made, dtype=torch.float64, requires_grad=True)
    weight = (3 * torch.randn(23, 5, generator=made, dtype=torch.float64)).requires_grad_()
    targets, upstream = torch.tensor([0, 22, 3, 3, 9, 11, 0]), torch.randn(7, generator=made, dtype=torch.float64)

    exact = (states @ weight.T / temperature).log_softmax(-1)
    expected = exact.gather(-1, targets[:, None]).squeeze(-1)
    logprobs, entropy = picked_logprobs(states @ weight.T, targets, temperature, with_entropy=True)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, -(exact.exp() * exact).sum(-1).detach())
    assert not entropy.requires_grad
    for one, other in zip(
        torch.autograd.grad((logprobs * upstream).sum(), (states, weight)),
        torch.autograd.grad((expected * upstream).sum(), (states, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_gpu_works_on_blocks_too(temperature: float) -> None:
    """Counted on tensors without data: beside 2^26 logits at most two blocks of 2^24 are there at a time."""
    rows, added = 2**12, torch.empty((), device="meta", requires_grad=True)
    targets = torch.empty(rows, dtype=torch.long, device="meta")
    with Ledger() as ledger:
        logits = added.expand(rows, 2**14).clone()
        logprobs, _ = picked_logprobs(logits, targets, temperature, with_entropy=True)
        logprobs.sum().backward()
    assert 4 * 2**26 < ledger.most["rest"] <= 4 * (2**26 + 2 * 2**24) + 2**6 * rows


def test_a_logit_far_from_all_others_overflows_nothing() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    logprobs, entropy = picked_logprobs(logits * 1.0, torch.tensor([2]), with_entropy=True)
    assert (logprobs.item(), entropy.item()) == (-2e4, 0.0)
    logprobs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    logits = torch.randn(2, 3, requires_grad=True) * 1.0
    logprobs, _ = picked_logprobs(logits, torch.tensor([0, 1]))
    logprobs.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def test_no_tokens_are_no_mistake() -> None:
    logits = torch.empty(0, 3, requires_grad=True) * 1.0
    logprobs, entropy = picked_logprobs(logits, torch.empty(0, dtype=torch.long), with_entropy=True)
    logprobs.sum().backward()
    assert (logprobs.shape, entropy.shape) == ((0,), (0,))
