"""Folds of groups, the length rule and how much is length, on numbers worked out by hand."""

import numpy as np
import pytest

from rlhf.folds import deal, length_direction, length_right, length_share
from rlhf.statistics import bootstrap_mean, clustered_bootstrap

WORDS = np.array([[9.0, 3.0], [2.0, 8.0], [4.0, 4.0], [1.0, 30.0], [30.0, 1.0]])


def test_groups_stay_whole_and_are_dealt_evenly() -> None:
    groups = [f"g{number % 23}" for number in range(60)]
    fold = deal(groups, 5, seed=0)
    by_group = {name: {int(f) for f, g in zip(fold, groups, strict=True) if g == name} for name in groups}
    assert all(len(found) == 1 for found in by_group.values())
    counts = np.bincount([found.pop() for found in by_group.values()])
    assert sorted(counts) == [4, 4, 5, 5, 5]  # 23 groups


def test_the_deal_knows_neither_the_order_nor_the_number_of_rows() -> None:
    names = [f"g{number}" for number in range(40)]
    first = dict(zip(names, deal(names, 4, seed=1), strict=True))
    again = [*reversed(names), "g7", "g7"]
    assert dict(zip(again, deal(again, 4, seed=1), strict=True)) == first
    assert dict(zip(names, deal(names, 4, seed=2), strict=True)) != first


@pytest.mark.parametrize("count", [1, 3])
def test_no_fold_stays_empty(count: int) -> None:
    with pytest.raises(ValueError, match="2 groups"):
        deal(["a", "b", "b"], count, seed=0)


def test_the_length_rule_learns_its_direction_and_counts_ties_half() -> None:
    assert length_direction(WORDS[[1, 2, 3]]) == -1
    assert length_direction(WORDS[[0, 1, 2]]) == 1  # one each: longer, by convention
    assert length_right(WORDS, -1).tolist() == [0, 1, 0.5, 1, 0]
    assert length_right(WORDS, 1).tolist() == [1, 0, 0.5, 0, 1]


def test_a_model_that_counts_words_is_all_length() -> None:
    lengths = np.array([[9.0, 1.0]] * 2 + [[1.0, 9.0]] * 6)  # shorter wins three times of four
    found = length_share(lengths[:, 1] - lengths[:, 0], lengths, length_right(lengths, -1))
    assert (found["matched_accuracy"], found["length_part"], found["agreement_with_rule"]) == (0.5, 1.0, 1.0)
    assert found["margin_length_correlation"] == pytest.approx(-1.0)
    assert (found["accuracy_where_rule_is_right"], found["accuracy_where_rule_is_wrong"]) == (1.0, 0.0)


def test_a_model_that_is_always_right_is_not_length_at_all() -> None:
    lengths = np.array([[9.0, 1.0]] * 2 + [[1.0, 9.0]] * 6)
    found = length_share(np.ones(8), lengths, length_right(lengths, -1))
    assert (found["matched_accuracy"], found["length_part"]) == (1.0, 0.0)
    assert found["agreement_with_rule"] == 0.75


def test_what_is_left_is_weighed_by_the_pairs_of_each_bin() -> None:
    lengths = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 3.0], [50.0, 1.0], [3.0, 3.0], [10.0, 1.0]])
    margins = np.array([1.0, 1.0, -1.0, 1.0, 1.0, 1.0])
    found = length_share(margins, lengths, length_right(lengths, 1))
    # Apart by 1-5: longer chosen 1/1, shorter 1/2, so 3/4 of 3 pairs; same length: 1 of 1. By 41+ and 6-15 there are
    # only longer ones, which say nothing.
    assert found["matched_accuracy"] == pytest.approx((3 * 0.75 + 1) / 4)
    assert found["length_part"] == pytest.approx(1 - (13 / 16 - 0.5) / (5 / 6 - 0.5))
    assert [(part["words_apart"], part["pairs"]) for part in found["by_difference"]] == [
        ("same", 1), ("1-5", 3), ("6-15", 1), ("41+", 1),
    ]  # fmt: skip
    assert found["by_difference"][1] == {
        "words_apart": "1-5", "pairs": 3, "accuracy": pytest.approx(2 / 3), "chosen_longer": 1.0,
        "chosen_shorter": 0.5, "matched": 0.75,
    }  # fmt: skip


def test_nothing_above_a_half_has_no_length_part() -> None:
    lengths = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert length_share(np.array([1.0, -1.0]), lengths, np.array([1.0, 0.0]))["length_part"] is None


def test_clusters_of_one_are_the_bootstrap_and_copies_add_nothing() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.5, 0.0, 1.0])
    names = list("abcdef")
    plain = bootstrap_mean(values, seed=3)
    assert clustered_bootstrap(values, names, seed=3) == plain
    copied = clustered_bootstrap(np.tile(values, 50), names * 50, seed=3)
    assert (copied.ci_low, copied.ci_high) == pytest.approx((plain.ci_low, plain.ci_high))
    with pytest.raises(ValueError, match="same length, got 6 and 5"):
        clustered_bootstrap(values, names[:5], seed=0)
