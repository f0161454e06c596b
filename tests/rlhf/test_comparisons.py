"""Comparisons by prompt: each completion once, every pair kept, winners and losers not mixed up."""

import pytest
import torch

from rlhf.chat import Chat
from rlhf.comparisons import by_prompt, comparison_batch, comparison_micro_batches


def row(prompt: str, chosen: str, rejected: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected, "group": prompt}


def test_completions_are_shared_and_pairs_point_at_them() -> None:
    chat = Chat.from_words(["q", "p", "a", "b", "c"])
    rows = [row("q", "a", "b"), row("p", "a", "c"), row("q", "b", "c"), row("q", "a", "c")]
    first, second = by_prompt(chat, rows)
    assert [chat.decode(ids) for ids in first.completions] == ["a", "b", "c"]
    assert first.pairs == [(0, 1), (1, 2), (0, 2)]
    assert (second.group, second.pairs) == ("p", [(0, 1)])

    found = comparison_batch([first, second], chat.pad_id)
    batch, chosen, rejected = found.batch, found.chosen, found.rejected
    assert found.margin.tolist() == [0.0] * 4
    assert found.share.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])  # every prompt counts 1
    texts = [chat.decode(ids[mask].tolist()) for ids, mask in zip(batch.input_ids, batch.loss_mask, strict=True)]
    assert texts == ["a", "b", "c", "a", "c"]
    assert torch.equal(chosen, torch.tensor([0, 1, 0, 3]))
    assert torch.equal(rejected, torch.tensor([1, 2, 2, 4]))
    assert batch.loss_mask.sum(dim=1).tolist() == [2] * 5  # the word and its stop token


def test_margins_stay_with_their_pairs() -> None:
    chat = Chat.from_words(["q", "p", "a", "b"])
    rows = [row("q", "a", "b") | {"margin": 2}, row("p", "a", "b") | {"margin": None}, row("q", "b", "a")]
    found = comparison_batch(by_prompt(chat, rows), chat.pad_id)
    assert found.chosen.tolist() == [0, 1, 2]
    assert found.margin.tolist() == [2.0, 0.0, 0.0]


def test_micro_batches_count_the_padding_across_prompts() -> None:
    """Many short completions beside few long ones: each prompt fits, together they would be padded past the limit."""
    chat = Chat.from_words(["q", "a", "b", "c", "d"])
    rows = [row("q", "a", "b"), row("q", "c", "d"), row("q q", "a a a a a a", "b")]
    prompts = by_prompt(chat, rows)
    assert [one.longest for one in prompts] == [4 + 2, 5 + 7]  # bos, user, q, assistant; a, stop
    limit = 4 * 6 + 2 * 12
    parts = comparison_micro_batches(prompts, limit)
    assert sorted(index for part in parts for index in part) == [0, 1]
    for part in parts:
        found = comparison_batch([prompts[index] for index in part], chat.pad_id)
        assert found.batch.input_ids.numel() <= limit
    assert comparison_micro_batches(prompts, 6 * 12) == [[0, 1]]
    with pytest.raises(ValueError, match=r"prompt 0 has 4 completions of up to 6 tokens.*max_batch_tokens"):
        comparison_micro_batches(prompts, 23)
