import torch

from rlhf.chat import Chat
from rlhf.pairs import encode_pairs, pair_batch, pair_micro_batches, split_sides

CHAT = Chat.from_words(["a", "b", "c", "d"])
ROWS = [
    {"messages": [{"role": "user", "content": "a"}], "chosen": "b c", "rejected": "d"},
    {"messages": [{"role": "user", "content": "a b"}], "chosen": "c", "rejected": "d d d"},
]


def test_chosen_come_first_and_only_completions_are_trained() -> None:
    pairs = encode_pairs(CHAT, ROWS)
    batch = pair_batch(pairs, CHAT.pad_id)
    assert batch.input_ids.shape == (4, 4 + 1 + 4)  # <bos> <user> a b <bot> | d d d <end>
    texts = [CHAT.decode(ids[mask].tolist()) for ids, mask in zip(batch.input_ids, batch.loss_mask, strict=True)]
    assert texts == ["b c", "c", "d", "d d d"]
    assert batch.loss_mask.sum(dim=1).tolist() == [3, 2, 2, 4]  # one stop token each
    chosen, rejected = split_sides(torch.arange(4))
    assert chosen.tolist() == [0, 1] and rejected.tolist() == [2, 3]


def test_micro_batches_count_both_sides_with_padding() -> None:
    pairs = encode_pairs(CHAT, ROWS)
    assert [pair.padded_tokens for pair in pairs] == [2 * (4 + 3), 2 * (5 + 4)]
    assert pair_micro_batches(pairs, 36) == [[0, 1]]
    assert pair_micro_batches(pairs, 35) == [[0], [1]]
