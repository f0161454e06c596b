"""Muon: orthogonal updates, the right matrices, and a state that the trainer can save."""

import torch
from torch import nn

from rlhf.muon import MuonAdamW, orthogonalised
from rlhf.optimizer import OptimizerSettings, adamw


def test_singular_values_go_through_the_quintic_three_times_and_vectors_stay() -> None:
    matrix = torch.randn(8, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert values.max() < 1.3
    expected = left @ values.diag() @ right
    torch.testing.assert_close(orthogonalised(matrix), expected)
    torch.testing.assert_close(orthogonalised(matrix.T), expected.T)


def test_first_update_of_a_diagonal_gradient_is_its_sign() -> None:
    """U Vᵀ of a diagonal matrix is the diagonal of its signs; a tall matrix is scaled by √(rows / columns)."""
    weight = nn.Parameter(torch.zeros(8, 2))
    weight.grad = torch.zeros(8, 2)
    weight.grad[0, 0], weight.grad[1, 1] = 3.0, -2.0
    MuonAdamW([{"params": [weight], "muon": True, "lr": 0.1, "weight_decay": 0.0}]).step()
    step = weight.detach() / (0.1 * 2)  # √(8 / 2)
    assert -1.3 < step[0, 0] < -0.6
    assert 0.6 < step[1, 1] < 1.3
    assert step.abs().sum() == step[0, 0].abs() + step[1, 1].abs()


def test_embeddings_and_what_is_tied_to_them_stay_with_adamw() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "inner": nn.Linear(4, 6), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    groups = adamw({"policy": model}, OptimizerSettings(lr=1e-3, matrix_lr=1e-2)).param_groups
    found = {(group["peak"], tuple(weight.shape)) for group in groups for weight in group["params"]}
    assert found == {(1e-3, (5, 4)), (1e-3, (6,)), (1e-2, (6, 4))}
