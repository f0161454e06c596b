import pytest
import torch

from rlhf.chat import Chat
from rlhf.preferences import Labelled, encode_example, example_batch, example_micro_batches, mismatched, split_sides

CHAT = Chat.from_words(["a", "b", "c", "d"])
ROWS = [
    {"messages": [{"role": "user", "content": "a"}], "chosen": "b c", "rejected": "d"},
    {"messages": [{"role": "user", "content": "a b"}], "chosen": "c", "rejected": "d d d"},
]
PAIRS = [encode_example(CHAT, row) for row in ROWS]


def test_chosen_come_first_and_only_completions_are_trained() -> None:
    batch, desirable = example_batch(PAIRS, CHAT.pad_id)
    assert batch.input_ids.shape == (4, 4 + 1 + 4)  # <bos> <user> a b <bot> | d d d <end>
    texts = [CHAT.decode(ids[mask].tolist()) for ids, mask in zip(batch.input_ids, batch.loss_mask, strict=True)]
    assert texts == ["b c", "c", "d", "d d d"]
    assert batch.loss_mask.sum(dim=1).tolist() == [3, 2, 2, 4]  # one stop token each
    assert desirable.tolist() == [True, True, False, False]
    chosen, rejected = split_sides(torch.arange(4))
    assert chosen.tolist() == [0, 1] and rejected.tolist() == [2, 3]


@pytest.mark.parametrize("label", [True, False])
def test_a_completion_may_come_without_a_rival(label: bool) -> None:
    (one,) = encode_example(CHAT, {"messages": ROWS[0]["messages"], "completion": "b c", "label": label})
    assert one == Labelled(PAIRS[0][0].prompt_ids, PAIRS[0][0].completion_ids, label)
    batch, desirable = example_batch([(one,), (one,), (one,)], CHAT.pad_id)
    assert batch.input_ids.shape == (3, 4 + 3) and desirable.tolist() == [label] * 3


def test_micro_batches_count_all_sides_with_padding() -> None:
    assert example_micro_batches(PAIRS, 2 * 2 * (5 + 4)) == [[0, 1]]
    assert example_micro_batches(PAIRS, 2 * 2 * (5 + 4) - 1) == [[0], [1]]
    singles = [(one,) for pair in PAIRS for one in pair]  # 7, 6, 7 and 9 tokens
    assert example_micro_batches(singles, 3 * 7) == [[1, 0, 2], [3]]


def judged(prompt: int, completion: int, desirable: bool) -> Labelled:
    return Labelled([prompt], [completion], desirable)


def test_mismatched_prompts_meet_completions_of_both_kinds_once_each() -> None:
    items = [judged(1, 10, True), judged(1, 11, False), judged(2, 20, True), judged(2, 21, False)]
    found = [(one.prompt_ids[0], one.completion_ids[0]) for one in mismatched(items)]
    assert found == [(1, 20), (2, 11), (1, 21), (2, 10)]


def test_what_answers_the_same_prompt_is_no_mismatch() -> None:
    items = [judged(1, 10, True), judged(1, 11, True), judged(2, 20, True)]
    found = [(one.prompt_ids[0], one.completion_ids[0]) for one in mismatched(items)]
    assert found == [(1, 20), (1, 20), (2, 10)]
    assert mismatched(items[:2]) == [] and mismatched([]) == []


def test_completions_that_do_not_fit_a_prompt_are_passed_over() -> None:
    long, short = [1] * 6, [2]
    items = [Labelled(long, [10], True), Labelled(short, [20] * 6, True), Labelled([3], [30], False)]
    found = [(one.prompt_ids, one.completion_ids) for one in mismatched(items, 7)]
    assert found == [(long, [30]), (short, [30]), ([3], [10])]
    assert mismatched(items, 12) == mismatched(items)
    assert [one.prompt_ids for one in mismatched(items[:2], 7)] == [short]  # nothing fits the long one


def test_a_key_names_prompt_and_completion_and_where_one_ends() -> None:
    assert Labelled([1, 2], [3], True).key == Labelled([1, 2], [3], False).key
    assert len({Labelled([1, 2], [3], True).key, Labelled([1], [2, 3], True).key, Labelled([1, 2], [4], True).key}) == 3
