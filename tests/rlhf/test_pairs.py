from rlhf.chat import Chat
from rlhf.pairs import encode_pairs

CHAT = Chat.from_words(["a", "b", "c", "d"])
ROWS = [
    {"messages": [{"role": "user", "content": "a"}], "chosen": "b c", "rejected": "d"},
    {"messages": [{"role": "user", "content": "a b"}], "chosen": "c", "rejected": "d d d"},
]


def test_a_pair_is_as_long_as_twice_its_longer_side() -> None:
    pairs = encode_pairs(CHAT, ROWS)
    assert [CHAT.decode(pair.chosen_ids) for pair in pairs] == ["b c", "c"]
    assert [CHAT.decode(pair.rejected_ids) for pair in pairs] == ["d", "d d d"]
    assert [pair.padded_tokens for pair in pairs] == [2 * (4 + 3), 2 * (5 + 4)]
