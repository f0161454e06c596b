"""Comparisons by prompt: each completion once, every pair kept, winners and losers not mixed up."""

import torch

from rlhf.chat import Chat
from rlhf.comparisons import by_prompt, comparison_batch


def row(prompt: str, chosen: str, rejected: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected, "group": prompt}


def test_completions_are_shared_and_pairs_point_at_them() -> None:
    chat = Chat.from_words(["q", "p", "a", "b", "c"])
    rows = [row("q", "a", "b"), row("p", "a", "c"), row("q", "b", "c"), row("q", "a", "c")]
    first, second = by_prompt(chat, rows)
    assert [chat.decode(ids) for ids in first.completions] == ["a", "b", "c"]
    assert first.pairs == [(0, 1), (1, 2), (0, 2)]
    assert (second.group, second.pairs) == ("p", [(0, 1)])

    batch, chosen, rejected = comparison_batch([first, second], chat.pad_id)
    texts = [chat.decode(ids[mask].tolist()) for ids, mask in zip(batch.input_ids, batch.loss_mask, strict=True)]
    assert texts == ["a", "b", "c", "a", "c"]
    assert torch.equal(chosen, torch.tensor([0, 1, 0, 3]))
    assert torch.equal(rejected, torch.tensor([1, 2, 2, 4]))
    assert batch.loss_mask.sum(dim=1).tolist() == [2] * 5  # the word and its stop token


def test_padded_tokens_count_what_a_batch_will_hold() -> None:
    chat = Chat.from_words(["q", "a", "b"])
    (one,) = by_prompt(chat, [row("q q", "a a a", "b")])
    batch, _, _ = comparison_batch([one], chat.pad_id)
    assert batch.input_ids.numel() == one.padded_tokens == 2 * (5 + 4)  # bos, user, q, q, assistant; a, a, a, stop
