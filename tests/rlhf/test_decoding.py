"""A model called by its parts, against the same model called as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.chat import Chat
from rlhf.models import Policy, adapt_policy, blocks, new_policy, save_policy, trainable
from rlhf.sampler import Completion, sample
from tasks.config.training import Training
from tests.rlhf.tiny_models import ARCHITECTURES, LLAMA3, SMALL, WINDOW, maker

AS_LLAMA = {"llama", "mistral", "qwen2", "qwen3"}
PROMPTS = [[7, 8, 9], [9, 7, 11, 6, 10, 8], [12]]


def sampled(policy: Policy, **further: Any) -> list[Completion]:
    settings = {"max_new_tokens": 12, "temperature": 1.0, "group_size": 3, "seed": 1} | further
    return sample(policy, PROMPTS, **settings)


def by_parts(policy: Policy) -> bool:
    return blocks.able(policy.model, 1)


def same_as_the_whole(policy: Policy, monkeypatch: pytest.MonkeyPatch, **further: Any) -> None:
    found = sampled(policy, **further)
    monkeypatch.setattr(blocks, "able", lambda *_: False)
    wanted = sampled(policy, **further)
    assert [one.ids for one in found] == [one.ids for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_samples_as_its_whole_model(
    name: str, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = adapt_policy(checkpoint(name), 0)
    assert by_parts(policy) == (name in AS_LLAMA)
    same_as_the_whole(policy, monkeypatch)


def test_the_newest_adapter_alone_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(new_policy(Chat.from_words("abcdefgh"), 0, hidden_size=32), tmp_path)
    policy = trainable(tmp_path, Training(method="lora"), 0, "sft")
    base = policy.model.base
    plain = Policy(base.view(()), policy.chat)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.3)
    assert by_parts(policy)
    before = sampled(policy)
    other = sampled(plain)  # switches the adapters off
    assert [one.ids for one in other] != [one.ids for one in before]
    assert sampled(policy) == before
    same_as_the_whole(policy, monkeypatch)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("granite", {"residual_multiplier": 0.3}),  # parts of the same names, put together otherwise
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}),
    ],
)
def test_what_only_looks_like_llama_is_called_as_a_whole(
    kind: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker(kind, LLAMA3, tie_word_embeddings=False, **SMALL | config)(tmp_path / "model")
    policy = adapt_policy(tmp_path / "model", 0)
    assert not by_parts(policy)
    same_as_the_whole(policy, monkeypatch)


def test_hooks_of_blocks_are_run(checkpoint: Callable[[str], Path]) -> None:
    policy = adapt_policy(checkpoint("llama"), 0)
    heard: list[int] = []

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        heard.append(inputs[0].shape[1])

    policy.model.get_decoder().layers[0].register_forward_pre_hook(hook)
    sampled(policy, group_size=1)
    assert heard[0] == max(map(len, PROMPTS))
    assert len(heard) > 1 and set(heard[1:]) == {1}


def test_attention_that_looks_back_less_far_than_the_room(checkpoint: Callable[[str], Path]) -> None:
    policy = adapt_policy(checkpoint("mistral"), 0)
    assert blocks.able(policy.model, WINDOW)
    assert not blocks.able(policy.model, WINDOW + 1)
