"""A padded batch as its different tokens: by hand, as a law, and in every architecture to the same numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.models import (
    adapt_policy,
    hidden_states,
    load_policy,
    logprobs_from_hidden,
    new_policy,
    save_policy,
    token_logprobs,
    trainable,
)
from rlhf.models.packing import NAME, able, packing_of, spread
from tasks.config.training import Training
from tests.rlhf.tiny_models import ARCHITECTURES, WINDOW

ROWS = [
    ([5, 6, 7, 8, 9], 3),
    ([5, 6, 7, 9], 3),
    ([6, 5], 1),
    ([5, 6, 7, 9, 4, 3, 2, 8, 8, 8], 3),
    ([5, 6, 7, 8, 9], 2),
]
"""Ids of a row, and how many of them are a prompt: two prompts, one row twice, and one that is the start of another."""


def batch_of(rows: list[tuple[list[int], int]]) -> Batch:
    return collate([(ids, [place >= prompt for place in range(len(ids))]) for ids, prompt in rows], pad_id=0)


def test_a_pair_by_hand() -> None:
    batch = collate([([1, 2, 3], [False] * 3), ([1, 2, 4, 5], [False] * 4), ([7], [False])], pad_id=0)
    packing = packing_of(batch.input_ids, batch.attention_mask)
    assert batch.input_ids.flatten()[packing.place].tolist() == [1, 2, 3, 4, 5, 7]
    assert packing.positions.tolist() == [0, 1, 2, 2, 3, 0]
    assert packing.source.tolist()[:8] == [0, 1, 2, packing.source[3], 0, 1, 3, 4]
    assert packing.again.tolist() == [4, 5]
    assert packing.rest.tolist() == [3, 4, 5, 9, 10, 11]


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=7), min_size=1, max_size=9))
def test_every_different_beginning_is_one_token(rows: list[list[int]]) -> None:
    batch = collate([(ids, [False] * len(ids)) for ids in rows], pad_id=0)
    packing = packing_of(batch.input_ids, batch.attention_mask)
    width = batch.input_ids.shape[1]
    found: dict[tuple[int, ...], int] = {}
    for row, ids in enumerate(rows):
        for end in range(len(ids)):
            token = int(packing.source[row * width + end])
            assert found.setdefault(tuple(ids[: end + 1]), token) == token
    assert sorted(found.values()) == list(range(len(packing.place)))
    assert torch.equal(packing.source[packing.place], torch.arange(len(found)))
    assert sorted([*packing.place.tolist(), *packing.rest.tolist()]) == list(range(len(rows) * width))
    real = batch.attention_mask.flatten()
    assert set(packing.again.tolist()) == {place for place in packing.rest.tolist() if real[place]}


def test_the_gradient_of_a_token_is_the_sum_over_its_places() -> None:
    batch = collate([([1, 2, 3], [False] * 3), ([1, 2, 4, 5], [False] * 4)], pad_id=0)
    packing = packing_of(batch.input_ids, batch.attention_mask)
    values = torch.zeros(5, 1, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 4.0, 0.0], [8.0, 16.0, 32.0, 64.0]])
    (spread(values, packing).squeeze(-1) * weights).sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [9, 18, 4, 32, 64]


def results(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    logprobs = token_logprobs(model, batch)
    weights = torch.linspace(0.5, 2, logprobs.numel()).view_as(logprobs)
    return logprobs.detach(), list(torch.autograd.grad((logprobs * weights).sum(), list(trained(model))))


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def agree(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same log-probabilities and gradients packed as padded."""
    batch = batch_of(ROWS)
    packed = results(model, batch)
    monkeypatch.setattr("rlhf.models.packing.WORTH", 0.0)
    padded = results(model, batch)
    torch.testing.assert_close(packed[0], padded[0], atol=2e-5, rtol=1e-5)
    for one, other in zip(packed[1], padded[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max() + 1), rtol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_the_same_packed(
    name: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = adapt_policy(checkpoint(name), 0)
    assert able(policy.model, 10), "packing was given up without a word"
    agree(policy.model, monkeypatch)


@pytest.mark.parametrize("recomputed", [False, True])
def test_adapters_and_blocks_computed_again(recomputed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(new_policy(Chat.from_words("abcdefgh"), 0, hidden_size=32), tmp_path)
    policy = trainable(tmp_path, Training(method="lora", gradient_checkpointing=recomputed), 0, "sft")
    agree(policy.model, monkeypatch)


def test_no_pass_waits_for_the_device() -> None:
    """On a device without values whatever the host would have to wait for is an error."""
    policy = new_policy(Chat.from_words(["a", "b"]), 0, hidden_size=16, num_heads=2)
    batch = collate([([2, 6, 7, 6], [False, False, True, True]), ([2, 6], [False, True])], policy.chat.pad_id)
    assert packing_of(batch.input_ids, batch.attention_mask).worth_it and able(policy.model, 4)
    policy.model.to("meta")
    hidden = hidden_states(policy.model, batch.input_ids, batch.attention_mask)
    assert (hidden.device.type, hidden.shape) == ("meta", (2, 4, 16))
    assert logprobs_from_hidden(policy.model, hidden, batch).shape == (2, 4)


def test_a_model_that_loses_the_layout_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = new_policy(Chat.from_words("abcdefgh"), 0, hidden_size=32)
    for layer in policy.model.model.layers:
        attend = layer.self_attn.forward

        def deaf(*args: object, attend: Callable[..., object] = attend, **kwargs: object) -> object:
            return attend(*args, **{name: value for name, value in kwargs.items() if name != "packing"})

        layer.self_attn.forward = deaf
    assert not able(policy.model, 10)
    assert policy.model.config._attn_implementation == "sdpa"
    agree(policy.model, monkeypatch)


def test_the_attention_function_is_no_matter_of_the_folder(tmp_path: Path) -> None:
    policy = new_policy(Chat.from_words("abcdefgh"), 0, hidden_size=32)
    save_policy(policy, tmp_path / "before")
    assert able(policy.model, 10)
    assert policy.model.config._attn_implementation == NAME
    save_policy(policy, tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes()
    assert load_policy(tmp_path / "after").model.config._attn_implementation == "sdpa"


def test_attention_that_looks_back_less_far_than_the_rows_are_long(checkpoint: Callable[[str], Path]) -> None:
    model = adapt_policy(checkpoint("mistral"), 0).model
    assert able(model, WINDOW)
    assert not able(model, WINDOW + 1)
