import torch
import torch.nn.functional as F

from rlhf.losses.supervised import completion_nll


def test_is_cross_entropy_of_the_masked_tokens_and_leaves_prompts_without_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator, requires_grad=True)
    targets = torch.randint(7, (2, 5), generator=generator)
    mask = torch.tensor([[False, False, True, True, False], [False, True, True, True, True]])
    logprobs = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    losses, metrics = completion_nll(logprobs, mask)
    torch.testing.assert_close(losses, F.cross_entropy(logits[mask], targets[mask], reduction="none"))
    assert losses.shape == (6,) and not metrics["nll"].requires_grad
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert (gradient[~mask] == 0).all() and (gradient[mask].abs().sum(-1) > 0).all()
