"""Padding, masks and micro-batches, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batching import collate
from rlhf.cutting import micro_batches, two_micro_batches


def test_collate_pads_on_the_right() -> None:
    batch = collate([([5, 6, 7], [False, True, True]), ([8], [False])], pad_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.loss_mask.tolist() == [[False, True, True], [False, False, False]]
    assert batch.input_ids.dtype == torch.long
    assert batch.loss_mask.dtype == torch.bool


def test_a_real_token_with_the_pad_id_is_not_padding() -> None:
    batch = collate([([5, 9], [False, True]), ([5, 5, 5], [False] * 3)], pad_id=9)
    assert batch.attention_mask[0].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "0 sequences"),
        ([([], [])], "0 ids"),
        ([([1, 2], [False])], "2 ids and 1 mask"),
        ([([1, 2], [True, True])], "first token"),
    ],
)
def test_collate_refuses(sequences: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(sequences, pad_id=0)


def test_two_micro_batches_by_hand() -> None:
    assert two_micro_batches([3, 3, 3, 3], 100) == [[0, 1], [2, 3]]
    assert two_micro_batches([4, 1, 1, 2], 100) == [[1, 2, 3], [0]]  # half of the rows at the longest's width
    assert two_micro_batches([3, 3, 3, 3], 3) == [[0], [1], [2], [3]]
    assert two_micro_batches([5], 100) == [[0]]


def test_micro_batches_by_hand() -> None:
    # Sorted 1, 2, 2, 3, 5 and 6 tokens a batch: {1, 2, 2} pads to 3 * 2 = 6, with the 3 it would be 12; {3, 5} is 10.
    assert micro_batches([5, 2, 3, 1, 2], 6) == [[3, 1, 4], [2], [0]]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(30, 90))
def test_micro_batches_hold_every_row_once_and_fit(lengths: list[int], max_tokens: int) -> None:
    batches = micro_batches(lengths, max_tokens)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(len(rows) * max(lengths[row] for row in rows) <= max_tokens for rows in batches)


def test_a_row_too_long_names_the_knob() -> None:
    with pytest.raises(ValueError, match="row 1 has 9 tokens, a micro-batch holds 8: raise max_batch_tokens"):
        micro_batches([3, 9], 8)
