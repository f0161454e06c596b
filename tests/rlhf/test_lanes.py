"""Lanes: two pieces at once, in order, and none begun after an error."""

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch

from rlhf import lanes as module
from rlhf import sampler
from rlhf.chat import Chat
from rlhf.lanes import in_lanes, one_lane, two_lanes
from rlhf.models import Policy, new_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.spending import ACCOUNT
from rlhf.supervised import fit_supervised


@pytest.fixture
def policy() -> Policy:
    chat = Chat.from_words(["one", "two", "three"])
    return new_policy(chat, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_tokens=32)


def test_two_are_at_work_at_once_and_results_keep_their_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def square(number: int) -> int:
        together.wait()
        return number**2

    assert list(in_lanes(square, range(6), True)) == [0, 1, 4, 9, 16, 25]


def test_one_lane_does_a_piece_when_it_is_asked_for() -> None:
    done: list[int] = []
    found = in_lanes(lambda number: done.append(number), range(3), False)
    next(found)
    assert done == [0]


@pytest.mark.parametrize("fails_in", ["main", "other"])
def test_an_error_in_either_lane_ends_both(fails_in: str) -> None:
    begun: list[int] = []
    failed, together = threading.Event(), threading.Barrier(2, timeout=30)

    def fails(number: int) -> None:
        begun.append(number)
        if len(begun) <= 2:
            together.wait()  # each lane has one
        if (threading.current_thread() is threading.main_thread()) == (fails_in == "main"):
            failed.set()
            raise ValueError("a piece")
        assert failed.wait(30)

    with pytest.raises(ValueError, match="a piece"):
        list(in_lanes(fails, range(1000), True))
    assert len(begun) < 1000


def test_a_large_model_and_company_have_one_lane(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = list(policy.model.parameters())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert two_lanes(weights) and two_lanes(iter(weights))
    assert not two_lanes([])  # of an adapter that is not trained no weight is seen
    assert not two_lanes([*weights, torch.empty(1, device="meta")])
    with one_lane():
        assert not two_lanes(weights)
    with monkeypatch.context() as patch:
        patch.setattr(ACCOUNT, "processes", 2)
        assert not two_lanes(weights)
    with monkeypatch.context() as patch:
        patch.setattr(module, "SMALL", sum(map(torch.Tensor.numel, weights)) - 1)
        assert not two_lanes(weights)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not two_lanes(weights)


def test_a_policy_has_the_same_bytes_when_its_steps_were_done_in_two_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    chat = Chat.from_words(["one", "two", "three"])
    rows = [(chat.encode_document(" ".join(["one", "two", "three"][: 1 + row % 3])), [True]) for row in range(16)]
    sequences = [(ids, [False] + [True] * (len(ids) - 1)) for ids, _ in rows]

    def trained() -> dict[str, bytes]:
        policy = new_policy(chat, 0, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_tokens=32)
        settings = OptimizerSettings(lr=0.01, matrix_lr=0.02, warmup_steps=1)
        fit_supervised(
            policy, sequences, epochs=2, batch_size=4, max_batch_tokens=64, optimizer=settings, seed=0, name="test",
            halved=True,
        )  # fmt: skip
        return {name: weight.detach().numpy().tobytes() for name, weight in policy.model.named_parameters()}

    with one_lane():
        alone = trained()
    monkeypatch.setattr(ACCOUNT, "seconds_in_two", 0.0)
    assert trained() == alone
    assert ACCOUNT.seconds_in_two > 0


@pytest.fixture
def prompts(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Five, of two lengths, for batches of which half a one may be two rows."""
    monkeypatch.setattr(sampler, "LEAST", 2)
    return [policy.chat.encode_prompt([{"role": "user", "content": "one two"[:size]}]) for size in (3, 7, 3, 7, 3)]


def drawn(policy: Policy, prompts: list[list[int]], batch_size: int) -> tuple[list[sampler.Completion], list[int]]:
    """Two completions of each, and the rows of each batch."""
    told = [(0, 10)]
    completions = sampler.sample(
        policy, prompts, max_new_tokens=8, temperature=1.0, group_size=2, seed=0, batch_size=batch_size,
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert {total for _, total in told} == {10}
    return completions, [after - before for (before, _), (after, _) in pairwise(told)]


def test_two_lanes_share_the_batch(policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes half of it, and half of what there is where that is less; a batch of one group is no two."""
    at_work, most = set[int](), list[int]()
    whole = sampler._sample_chunk

    def watched(policy: Policy, prompts: object, chunk: list[int], group_size: int, *rest: Any) -> Any:
        at_work.update(chunk)
        most.append(len(at_work) * group_size)
        try:
            return whole(policy, prompts, chunk, group_size, *rest)  # type: ignore[arg-type]
        finally:
            at_work.difference_update(chunk)

    monkeypatch.setattr(sampler, "_sample_chunk", watched)
    monkeypatch.setattr(sampler, "two_lanes", lambda weights: True)
    for batch_size, batches in {1: [2] * 5, 3: [2] * 5, 4: [2] * 5, 7: [2] * 5, 8: [4, 4, 2], 512: [6, 4]}.items():
        most.clear()
        assert drawn(policy, prompts, batch_size)[1] == batches
        assert max(most) <= max(2, batch_size)


def test_batches_and_so_bytes_do_not_depend_on_the_lanes(
    policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(ACCOUNT, "seconds_in_two", 0.0)
    found = drawn(policy, prompts, 512)
    assert ACCOUNT.seconds_in_two > 0
    monkeypatch.setattr(ACCOUNT, "seconds_in_two", 0.0)
    with one_lane():
        assert drawn(policy, prompts, 512) == found
    with monkeypatch.context() as patch:
        patch.setattr(ACCOUNT, "processes", 2)
        assert drawn(policy, prompts, 512) == found
    assert ACCOUNT.seconds_in_two == 0


def test_few_rows_large_models_and_adapters_have_whole_batches(
    policy: Policy, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drawn(policy, prompts, 512)[1] == [6, 4]
    for where, name, value in (
        (sampler, "LEAST", 7),
        (module, "SMALL", 1),
        (sampler, "Adapted", type(policy.model)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            patch.setattr(sampler, "two_lanes", lambda weights: True)
            patch.setattr(ACCOUNT, "seconds_in_two", 0.0)
            assert drawn(policy, prompts, 512)[1] == [10]
            assert drawn(policy, prompts, 4)[1] == [4, 4, 2]
            assert ACCOUNT.seconds_in_two == 0
