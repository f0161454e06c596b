import pytest
import torch

from rlhf.masks import aggregate, denominator, masked_mean, masked_var, masked_whiten


def test_mean_and_variance_see_only_the_mask() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0], [5.0, -7.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask).item() == pytest.approx(3.0)
    assert masked_var(values, mask).item() == pytest.approx(8 / 3)  # ((-2)² + 0² + 2²) / 3
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0


def test_whitening_gives_mean_0_variance_1_and_ignores_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 9, generator=generator) * 4 + 3
    mask = torch.rand(6, 9, generator=generator) < 0.6
    white = masked_whiten(values, mask)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert (white[~mask] == 0).all()
    padded = masked_whiten(torch.nn.functional.pad(values, (0, 4), value=1e6), torch.nn.functional.pad(mask, (0, 4)))
    torch.testing.assert_close(padded[:, :9], white)


def test_whitening_of_equal_values_is_zero() -> None:
    white = masked_whiten(torch.full((2, 3), 5.0), torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(white, torch.zeros(2, 3))


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_what_lies_outside_the_mask_is_nothing_in_value_and_gradient(garbage: float) -> None:
    values = torch.tensor([[1.0, 3.0, garbage], [5.0, garbage, garbage]], requires_grad=True)
    clean = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for function in (masked_mean, masked_var, masked_whiten, lambda v, m: aggregate(v, m, "sequence")):
        results = [function(given, mask) for given in (values, clean)]
        assert torch.equal(results[0], results[1])
        gradients = [
            torch.autograd.grad((result**3).sum(), given)[0]
            for result, given in zip(results, (values, clean), strict=True)
        ]
        assert torch.equal(gradients[0][mask], gradients[1][mask])
        assert (gradients[0][~mask] == 0).all()


@pytest.mark.parametrize(("how", "expected"), [("sequence", 2.35), ("token", 2.2), ("fixed", 1.65)])
def test_aggregation_worked_by_hand(how: str, expected: float) -> None:
    """Losses 1 1 1 1 10 and nine 1 and a 10: (14/5 + 19/10)/2, 33/15, (14/10 + 19/10)/2."""
    losses = torch.ones(2, 10)
    losses[0, 4] = losses[1, 9] = 10.0
    losses[0, 5:] = 99.0
    mask = torch.arange(10) < torch.tensor([[5], [10]])
    total = aggregate(losses, mask, how, fixed_length=10).sum() / denominator(mask, how)  # type: ignore[arg-type]
    assert total.item() == pytest.approx(expected)


@pytest.mark.parametrize("how", ["sequence", "token", "fixed"])
def test_parts_of_a_step_add_up_to_the_whole(how: str) -> None:
    generator = torch.Generator().manual_seed(1)
    losses = torch.randn(8, 7, generator=generator)
    mask = torch.arange(7) < torch.randint(1, 8, (8, 1), generator=generator)
    parts = [aggregate(losses[i : i + 2], mask[i : i + 2], how, 7) for i in range(0, 8, 2)]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.cat(parts), aggregate(losses, mask, how, 7))  # type: ignore[arg-type]


def test_a_fixed_length_that_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="got no fixed_length"):
        aggregate(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), "fixed")


def test_equal_values_are_whitened_to_exactly_nothing() -> None:
    values = torch.full((3, 7), 0.7)
    mask = torch.arange(7) < torch.tensor([[5], [7], [6]])
    assert masked_whiten(values, mask).abs().max() == 0.0
