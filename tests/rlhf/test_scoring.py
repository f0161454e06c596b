"""One reward of a completion, wherever it is asked for."""

import torch

from rlhf.batching import Batch
from rlhf.reward_report import score_pairs
from rlhf.scoring import by_batch
from tests.tasks import tiny


class LastToken:
    """Stands for a reward model: scores with the last token that the batch holds of a row."""

    chat = tiny.chat()

    def __call__(self, batch: Batch) -> torch.Tensor:
        last = batch.attention_mask.sum(dim=1) - 1
        return batch.input_ids.gather(1, last[:, None]).squeeze(1).float()


def test_numbers_come_back_in_the_order_given_and_equal_texts_are_asked_once() -> None:
    asked = []

    def count(batch: Batch) -> torch.Tensor:
        asked.append(len(batch.input_ids))
        return batch.input_ids.sum(dim=1)

    texts = [([1, 2, 3], [4, 5]), ([1], [2]), ([1, 2], [9]), ([1], [2])]
    assert by_batch(count, texts, pad_id=0, max_tokens=6).tolist() == [15, 3, 12, 3]
    assert asked == [2, 1]


def test_a_side_of_a_pair_that_was_cut_off_has_the_fixed_reward() -> None:
    row = {"messages": [{"role": "user", "content": "red"}], "chosen": "yes", "rejected": "no thanks"}
    cut = row | {"stopped": {"chosen": True, "rejected": False}}
    stop = float(LastToken.chat.stop_id)
    found = score_pairs(LastToken(), [row, cut], unfinished_reward=-2.0, max_tokens=64)  # type: ignore[arg-type]
    assert found.tolist() == [[stop, stop], [stop, -2.0]]
