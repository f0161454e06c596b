import pytest
import torch

from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import new_policy, token_logprobs
from rlhf.supervised import fit_supervised
from rlhf.trainer import OptimizerSettings

CHAT = Chat.from_words(["a", "b", "c"])
CONVERSATIONS = [
    CHAT.encode_conversation([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
    for asked, answer in (("a", "b"), ("b", "c c"), ("c", "a a a a"), ("a b", "b"), ("b c", "c c"))
]


def train(max_batch_tokens: int) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    policy = new_policy(CHAT, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_tokens=32)
    seen: list[dict[str, float]] = []
    fit_supervised(
        policy, CONVERSATIONS, epochs=15, batch_size=5, max_batch_tokens=max_batch_tokens,
        optimizer=OptimizerSettings(lr=0.02, warmup_steps=2), seed=0, name="sft",
        log=lambda metrics, step: seen.append(metrics),
    )  # fmt: skip
    return policy.model, seen


def test_every_token_weighs_the_same_however_the_step_is_cut() -> None:
    """The first loss is the mean over all tokens of the step, which is not the mean of the sequences' means."""
    start = new_policy(CHAT, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_tokens=32)
    batch = collate(CONVERSATIONS, CHAT.pad_id)
    with torch.no_grad():
        expected = -token_logprobs(start.model, batch)[batch.loss_mask].mean().item()
    (whole, whole_log), (parts, parts_log) = train(10_000), train(20)
    assert whole_log[0]["sft/loss"] == pytest.approx(expected, rel=1e-5)
    assert parts_log[0]["sft/nll"] == pytest.approx(expected, rel=1e-5)
    assert whole_log[-1]["sft/loss"] < 0.5 * expected
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
