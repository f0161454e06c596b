import pytest
import torch

from rlhf.kl import adapt_kl_coef, k1, k2, k3


@pytest.fixture
def two_distributions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 50, 6, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1))  # type: ignore


def test_k1_and_k3_average_to_the_exact_kl_of_policy_to_reference(two_distributions) -> None:  # type: ignore[no-untyped-def]
    """Expectation by summing over all outcomes; KL from torch's own distributions. Catches the inverted direction."""
    logprobs, ref_logprobs = two_distributions
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logprobs), torch.distributions.Categorical(logits=ref_logprobs)
    )
    for estimator in (k1, k3):
        torch.testing.assert_close((logprobs.exp() * estimator(logprobs, ref_logprobs)).sum(-1), exact)


def test_k2_and_k3_are_never_negative_and_all_are_zero_at_the_reference(two_distributions) -> None:  # type: ignore[no-untyped-def]
    logprobs, ref_logprobs = two_distributions
    assert (k2(logprobs, ref_logprobs) >= 0).all() and (k3(logprobs, ref_logprobs) >= 0).all()
    for estimator in (k1, k2, k3):
        assert (estimator(logprobs, logprobs) == 0).all()


def test_k3_is_exact_near_the_reference_in_single_precision() -> None:
    """k3 ≈ Δ²/2 for small Δ; exp(−Δ) − 1 computed naively would lose all digits at 1e-6."""
    delta = torch.tensor([1e-3, 1e-4])
    torch.testing.assert_close(k3(delta, torch.zeros(2)), delta**2 / 2, rtol=1e-2, atol=0)


def test_k3_far_from_the_reference_is_finite_in_value_and_gradient() -> None:
    logprobs = torch.tensor([-200.0, 0.0], requires_grad=True)
    values = k3(logprobs, torch.tensor([0.0, -200.0]))
    assert values.isfinite().all() and values[1].item() == 199.0
    assert torch.autograd.grad(values.sum(), logprobs)[0].tolist() == [0.0, 1.0]


def test_expected_gradients_as_a_loss() -> None:
    """By enumeration: k2's is that of KL(π‖ref), k3's that of KL(ref‖π), k1's is 0."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    logprobs = logits.log_softmax(-1)
    weights = logprobs.exp().detach()
    reverse = gradient((logprobs.exp() * (logprobs - ref)).sum())
    forward = gradient((ref.exp() * (ref - logprobs)).sum())
    torch.testing.assert_close(gradient((weights * k2(logprobs, ref)).sum()), reverse)
    torch.testing.assert_close(gradient((weights * k3(logprobs, ref)).sum()), forward)
    torch.testing.assert_close(gradient((weights * k1(logprobs, ref)).sum()), torch.zeros_like(ref))


def test_adaptive_coefficient_moves_towards_the_target_within_bounds() -> None:
    assert adapt_kl_coef(0.15, 6.6, target=6.0) == pytest.approx(0.15 * 1.01)  # error +0.1, rate 0.1
    assert adapt_kl_coef(0.15, 5.4, target=6.0) == pytest.approx(0.15 * 0.99)
    assert adapt_kl_coef(0.15, 600.0, target=6.0) == pytest.approx(0.15 * 1.02)  # clipped at +0.2
    assert adapt_kl_coef(0.15, -3.0, target=6.0) == pytest.approx(0.15 * 0.98)
    assert adapt_kl_coef(0.15, 6.0, target=6.0) == 0.15
    with pytest.raises(ValueError, match="target is 0"):
        adapt_kl_coef(0.1, 1.0, target=0.0)
