import pytest

from rlhf.epochs import epoch_batches, full_batch, num_steps, rows_at


def test_each_pass_takes_every_row_once_in_another_order() -> None:
    steps = num_steps(10, 4, epochs=2)
    assert steps == 6
    batches = [rows_at(step, 10, 4, seed=0) for step in range(steps)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = ([row for batch in batches[start : start + 3] for row in batch] for start in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batches[1] == rows_at(1, 10, 4, seed=0) != rows_at(1, 10, 4, seed=1)


def test_no_rows_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        num_steps(0, 4, epochs=1)


def test_batches_by_length_take_every_row_once_and_pad_little() -> None:
    lengths = [5 + (row * 37) % 60 for row in range(500)]
    batches = epoch_batches(lengths, batch_size=8, seed=1, epoch=0)
    assert len(batches) == 63  # ceil(500 / 8)
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)  # 8 at random: about 1.7
    assert batches == epoch_batches(lengths, batch_size=8, seed=1, epoch=0)
    assert batches != epoch_batches(lengths, batch_size=8, seed=1, epoch=1)


@pytest.mark.parametrize(("rows", "size"), [(130, 128), (10, 4), (9, 4), (8, 4), (7, 4), (4, 4), (3, 8), (1, 1)])
def test_passes_that_run_on_give_full_batches_without_a_row_twice(rows: int, size: int) -> None:
    full = min(rows, size)
    batches = [full_batch(step, rows, size, seed=3) for step in range(3 * rows)]
    assert {len(batch) for batch in batches} == {full}
    assert all(len(set(batch)) == full for batch in batches)
    flat = [row for batch in batches for row in batch]
    for start in range(0, len(flat) - rows + 1, rows):
        assert sorted(flat[start : start + rows]) == list(range(rows))
    assert rows == 1 or batches != [full_batch(step, rows, size, seed=4) for step in range(3 * rows)]
